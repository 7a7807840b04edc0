package ring

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Shard returns the part of the ring that receives a tenant's new series: size
// ingesters, the same number in each zone (rounded up). It is a pure function of ring,
// tenant and size, so every process computes the same shard. Two tenants rarely have
// the same shard, and adding or removing an ingester changes at most one member of a
// shard in each zone. With a size of 0, or of at least the number of ingesters, the
// shard is the whole ring. Reads do not use shards: they query all ingesters.
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

// pick marks n instances of a zone: for each, the first unmarked one on a walk from a
// token derived from the tenant. An instance that is not Active is marked too, and the
// walk continues, so that the shard has n Active instances if possible.
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

// Has reports whether the instance at a position in Instances is in the shard.
func (r *Ring) Has(position int32) bool {
	if r.only == nil {
		return true
	}
	return r.only[position]
}
