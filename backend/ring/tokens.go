package ring

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/cespare/xxhash/v2"
)

const ringSize = 1 << 32 // number of tokens

// arc is the range of the ring that a token owns: from the next lower token,
// exclusive, to the token itself, inclusive.
type arc struct {
	end, width uint64
}

// PlaceTokens chooses the tokens of an instance that joins a zone. The new instance
// takes an equal share of the zone's ring from the instances that own most of it, so
// that all own nearly the same afterwards and series move only to the new instance.
// With random tokens, shares would differ by a third. The result depends on the
// arguments only.
//
// Replicas are in distinct zones, so balanced token ranges within each zone mean
// balanced series. The first instance of a zone gets one random token in each of
// TokensPerInstance equal parts of the ring, so that the zones' tokens differ.
func PlaceTokens(zone string, members []Instance) []uint32 {
	owned := arcsOf(members)
	if len(owned) == 0 {
		const part = ringSize / TokensPerInstance
		rnd := rand.New(rand.NewPCG(xxhash.Sum64String(zone), 0))
		out := make([]uint32, TokensPerInstance)
		for i := range out {
			out[i] = uint32(part*uint64(i) + rnd.Uint64N(part))
		}
		return out
	}
	donors := make([]donor, 0, len(owned))
	for _, arcs := range owned {
		d := donor{arcs: arcs}
		for _, a := range arcs {
			d.owns += a.width
		}
		donors = append(donors, d)
	}
	slices.SortStableFunc(donors, func(a, b donor) int { return cmp.Compare(b.owns, a.owns) })
	donors = donors[:min(len(donors), TokensPerInstance)]
	level(donors, ringSize/uint64(len(owned)+1))
	share(donors)
	var out []uint32
	for i := range donors {
		out = donors[i].give(out)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// donor is an instance that gives part of its ranges to a new instance.
type donor struct {
	arcs   []arc
	owns   uint64 // total width of arcs
	gives  uint64 // width to give
	tokens int    // number of ranges to give
}

// arcsOf returns the arcs of each member with tokens, in the ring of just these
// members.
func arcsOf(members []Instance) [][]arc {
	type place struct {
		token    uint32
		instance int
	}
	var all []place
	n := 0
	for _, in := range members {
		if len(in.Tokens) == 0 {
			continue
		}
		for _, t := range in.Tokens {
			all = append(all, place{t, n})
		}
		n++
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.token, b.token), cmp.Compare(a.instance, b.instance))
	})
	out := make([][]arc, n)
	for i, p := range all {
		width := uint64(ringSize)
		if len(all) > 1 {
			width = uint64(p.token - all[(i+len(all)-1)%len(all)].token)
		}
		out[p.instance] = append(out[p.instance], arc{end: uint64(p.token), width: width})
	}
	return out
}

// level sets how much each donor gives, about want in total, so that the largest
// donors keep the same width. donors must be sorted, the largest first.
func level(donors []donor, want uint64) {
	sum := uint64(0)
	for n := 1; n <= len(donors); n++ {
		sum += donors[n-1].owns
		if sum < want {
			continue
		}
		floor := (sum - want) / uint64(n)
		if n < len(donors) && floor < donors[n].owns {
			continue // the next donor must give tokens, too
		}
		for i := range donors[:n] {
			donors[i].gives = donors[i].owns - min(donors[i].owns, floor)
		}
		return
	}
}

// share distributes the new instance's tokens over the donors in proportion to how
// much each gives.
func share(donors []donor) {
	total, left := uint64(0), TokensPerInstance
	for _, d := range donors {
		total += d.gives
	}
	for i := range donors {
		d := &donors[i]
		if d.gives == 0 {
			continue
		}
		d.tokens = max(1, min(int(d.gives*TokensPerInstance/total), len(d.arcs)))
		left -= d.tokens
	}
	for i := 0; left > 0 && i < 2*len(donors); i++ { // tokens left over by rounding, one per donor
		if d := &donors[i%len(donors)]; d.gives > 0 && d.tokens < len(d.arcs) {
			d.tokens++
			left--
		}
	}
}

// give appends the tokens that take the lower part of the donor's widest arcs.
func (d *donor) give(out []uint32) []uint32 {
	slices.SortStableFunc(d.arcs, func(a, b arc) int { return cmp.Compare(b.width, a.width) })
	for i := range d.tokens {
		a := d.arcs[d.tokens-1-i] // narrowest first: wider arcs make up for narrow ones
		piece := min(d.gives/uint64(d.tokens-i), a.width-min(a.width, 1))
		if piece == 0 {
			continue
		}
		d.gives -= piece
		out = append(out, uint32(a.end-a.width+piece))
	}
	return out
}
