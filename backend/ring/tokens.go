package ring

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/cespare/xxhash/v2"
)

const whole = 1 << 32 // of the ring

// arc is the part of the ring that one token owns: from the token below it,
// exclusive, to itself.
type arc struct {
	end, width uint64
}

// PlaceTokens chooses the tokens of an instance that joins a zone: it takes an
// equal part of what is owned there, from those that own most, so that all own
// nearly the same again and nothing moves but to the new instance. Random tokens
// would differ by a third; what is known here about the others is worth more
// than their independence. The result follows from the arguments alone.
//
// Replicas lie in distinct zones, so the balance within a zone is the balance of
// the series. The first instance of a zone has one token at random in each of
// equal parts of the ring, so that zones lie differently.
func PlaceTokens(zone string, members []Instance) []uint32 {
	owned := arcsOf(members)
	if len(owned) == 0 {
		const part = whole / TokensPerInstance
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
	level(donors, whole/uint64(len(owned)+1))
	share(donors)
	var out []uint32
	for i := range donors {
		out = donors[i].give(out)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// donor is an instance that gives a part of what it owns to a new one.
type donor struct {
	arcs   []arc
	owns   uint64
	gives  uint64
	tokens int // in how many pieces
}

// arcsOf lists what each instance owns, of the ring that these make alone.
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
		width := uint64(whole)
		if len(all) > 1 {
			width = uint64(p.token - all[(i+len(all)-1)%len(all)].token)
		}
		out[p.instance] = append(out[p.instance], arc{end: uint64(p.token), width: width})
	}
	return out
}

// level sets what each donor gives, in all about want, so that those that own
// most come down to one level. Donors are sorted, the largest first.
func level(donors []donor, want uint64) {
	sum := uint64(0)
	for n := 1; n <= len(donors); n++ {
		sum += donors[n-1].owns
		if sum < want {
			continue
		}
		floor := (sum - want) / uint64(n)
		if n < len(donors) && floor < donors[n].owns {
			continue // the next one is above the level, too
		}
		for i := range donors[:n] {
			donors[i].gives = donors[i].owns - min(donors[i].owns, floor)
		}
		return
	}
}

// share deals the new instance's tokens to the donors by what each gives.
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
	for i := 0; left > 0 && i < 2*len(donors); i++ { // what rounding left, one each
		if d := &donors[i%len(donors)]; d.gives > 0 && d.tokens < len(d.arcs) {
			d.tokens++
			left--
		}
	}
}

// give takes the lower part of the donor's widest arcs for the new instance.
func (d *donor) give(out []uint32) []uint32 {
	slices.SortStableFunc(d.arcs, func(a, b arc) int { return cmp.Compare(b.width, a.width) })
	for i := range d.tokens {
		a := d.arcs[d.tokens-1-i] // the narrowest first: the wider make up for them
		piece := min(d.gives/uint64(d.tokens-i), a.width-min(a.width, 1))
		if piece == 0 {
			continue
		}
		d.gives -= piece
		out = append(out, uint32(a.end-a.width+piece))
	}
	return out
}
