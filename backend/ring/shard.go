package ring

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Shard returns the part of the ring that takes a tenant's new series: size
// ingesters, equally many of each zone (rounded up). It is a pure function of
// ring, tenant and size: every process finds the same, two tenants rarely share
// all of theirs, and one ingester more or less changes at most one member of a
// shard in each zone. A size of 0, or one that all ingesters fit in, is the
// whole ring. Reads do not use it: they ask all ingesters.
func (r *Ring) Shard(id tenant.ID, size int) *Ring {
	if size <= 0 || size >= len(r.instances) {
		return r
	}
	each := (size + len(r.zones) - 1) / len(r.zones)
	out := &Ring{instances: r.instances, owners: r.owners, others: r.others, zones: r.zones}
	in := map[int32]bool{}
	for i := range r.zones {
		r.pick(in, &r.zones[i], id, min(each, r.zones[i].instances))
	}
	out.tokens = make([]placed, 0, len(in)*TokensPerInstance)
	for at := range in {
		for _, t := range r.instances[at].Tokens {
			out.tokens = append(out.tokens, placed{t, at})
		}
	}
	sortTokens(out.tokens)
	out.only = in
	return out
}

// pick marks n instances of a zone: for each, the first not yet marked when
// walking from a place that follows from the tenant. A member that is not Active
// stays and one more is taken beside it, as a replica set does.
func (r *Ring) pick(in map[int32]bool, z *zone, id tenant.ID, n int) {
	seed := xxhash.Sum64String(z.name + "\x00" + string(id))
	for range n {
		seed = seed*6364136223846793005 + 1442695040888963407 // Knuth's linear congruence
		start, _ := slices.BinarySearchFunc(z.tokens, uint32(seed>>32), func(p placed, t uint32) int { return cmp.Compare(p.token, t) })
		for i := range z.tokens {
			at := z.tokens[(start+i)%len(z.tokens)].instance
			if in[at] {
				continue
			}
			in[at] = true
			if r.owners[at].active {
				break
			}
		}
	}
}

// Active counts the ingesters that take new series.
func (r *Ring) Active() int {
	n := 0
	for _, o := range r.owners {
		if o.active {
			n++
		}
	}
	return n
}

// Has reports whether the instance at a position of Instances is in this part of
// the ring.
func (r *Ring) Has(position int32) bool {
	if r.only == nil {
		return true
	}
	return r.only[position]
}
