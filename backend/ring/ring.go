// Package ring assigns series to ingesters, by a pure function of the ring's members
// and a series' token. An implementation of Membership determines the members:
// package ring/redis in a cluster.
package ring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"
)

// TokensPerInstance is the number of tokens of an ingester: enough for nearly equal
// shares, few enough for short walks.
const TokensPerInstance = 128

// State of an instance.
type State string

// The states of an instance. Only Active instances receive new series. Queries read
// from instances in every state.
const (
	Joining State = "JOINING"
	Active  State = "ACTIVE"
	Leaving State = "LEAVING"
)

// Instance is a member of the ring: a process that registered itself.
type Instance struct {
	ID    string
	Addr  string   // host:port for calls between processes; empty if it must not be called
	Zone  string   // empty without zones
	Roles []string // the -target roles of the process
	State State
	// Tokens are the instance's positions on the ring, sorted. They are the same after
	// a restart. Only ingesters have any.
	Tokens []uint32
	// Incarnation changes when an instance returns without its disk.
	Incarnation    string
	Registered     time.Time     // when the instance first registered
	SinceHeartbeat time.Duration // since its last heartbeat
	Unhealthy      bool          // its last heartbeat is too old, or its entry is not trusted
}

// Domain returns the instance's failure domain: its zone, or without zones the
// instance itself.
func (in *Instance) Domain() string {
	if in.Zone != "" {
		return "zone " + in.Zone
	}
	return in.ID
}

// ErrUnknown is returned until the ring was read for the first time.
var ErrUnknown = errors.New("ring not loaded yet: Redis has not responded since this process started, or was emptied a moment ago")

// Membership returns the current ring. Implementations keep the last ring when their
// source is unreachable, and return ErrUnknown until there is a first one.
type Membership interface {
	Ring(ctx context.Context) (*Ring, error)
}

// ErrTooFew is returned when the ring has fewer Active instances in distinct failure
// domains than replicas are needed.
var ErrTooFew = errors.New("too few ingesters in the ring")

// Ring is an immutable set of instances.
type Ring struct {
	instances []Instance // members with tokens, sorted by ID
	others    []Instance // members without tokens, sorted by ID
	tokens    []placed   // sorted by token
	owners    []owner    // of instances, by position
	zones     []zone
	only      map[int32]bool // positions of the instances in a shard; nil means all
}

type placed struct {
	token    uint32
	instance int32
}

// zone is the part of the ring in one zone.
type zone struct {
	name      string
	instances int
	tokens    []placed
}

// owner holds the properties of an instance that a walk needs.
type owner struct {
	zone   int32
	active bool
	alone  bool // no other instance of the zone may be in the same replica set
}

// New returns the ring of the instances. Those without tokens are only listed.
func New(instances []Instance) *Ring {
	r := &Ring{}
	for _, in := range instances {
		if len(in.Tokens) > 0 {
			r.instances = append(r.instances, in)
		} else {
			r.others = append(r.others, in)
		}
	}
	byID := func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(r.instances, byID)
	slices.SortFunc(r.others, byID)
	for i, in := range r.instances {
		z := slices.IndexFunc(r.zones, func(z zone) bool { return z.name == in.Zone })
		if z < 0 {
			z = len(r.zones)
			r.zones = append(r.zones, zone{name: in.Zone})
		}
		r.zones[z].instances++
		r.owners = append(r.owners, owner{zone: int32(z), active: in.State == Active, alone: in.Zone != ""})
		for _, t := range in.Tokens {
			r.tokens = append(r.tokens, placed{t, int32(i)})
		}
	}
	sortTokens(r.tokens)
	for _, p := range r.tokens {
		z := &r.zones[r.owners[p.instance].zone]
		z.tokens = append(z.tokens, p)
	}
	return r
}

// Refresh returns a copy of the ring with each instance changed by update, which may
// change only what does not affect placement: SinceHeartbeat and Unhealthy.
func (r *Ring) Refresh(update func(*Instance)) *Ring {
	out := *r
	out.instances, out.others = slices.Clone(r.instances), slices.Clone(r.others)
	for i := range out.instances {
		update(&out.instances[i])
	}
	for i := range out.others {
		update(&out.others[i])
	}
	return &out
}

// SamePlacement reports whether both rings are copies by Refresh of one ring, and so
// place every series on the same instances.
func (r *Ring) SamePlacement(o *Ring) bool {
	return o != nil && len(r.tokens) > 0 && len(o.tokens) > 0 && &r.tokens[0] == &o.tokens[0]
}

func sortTokens(tokens []placed) {
	slices.SortFunc(tokens, func(a, b placed) int {
		if c := cmp.Compare(a.token, b.token); c != 0 {
			return c
		}
		return cmp.Compare(a.instance, b.instance)
	})
}

// Instances returns the members with tokens (ingesters), sorted by ID.
func (r *Ring) Instances() []Instance { return r.instances }

// Others returns the members without tokens, sorted by ID.
func (r *Ring) Others() []Instance { return r.others }

// Domains returns the number of failure domains with an Active ingester, which is the
// maximum number of replicas that Replicas finds.
func (r *Ring) Domains() int {
	seen := map[string]bool{}
	for i := range r.instances {
		if in := &r.instances[i]; in.State == Active {
			seen[in.Domain()] = true
		}
	}
	return len(seen)
}

// Replicas returns the replica set of a series with the token, appended to dst[:0]:
// the first n instances on a walk of the ring upwards from the token, without
// repetition and in distinct zones where zones are set. The walk skips instances that
// are not Active, so the next one replaces an instance that joins or leaves. The
// error wraps ErrTooFew if the set has fewer than n instances.
func (r *Ring) Replicas(token uint32, n int, dst []*Instance) ([]*Instance, error) {
	var few [8]int32
	found, err := r.Positions(token, n, few[:0])
	dst = dst[:0]
	for _, at := range found {
		dst = append(dst, &r.instances[at])
	}
	return dst, err
}

// Positions returns the same set as Replicas, as positions in Instances.
func (r *Ring) Positions(token uint32, n int, dst []int32) ([]int32, error) {
	dst = dst[:0]
	start := sort.Search(len(r.tokens), func(i int) bool { return r.tokens[i].token >= token })
	for i := range r.tokens {
		k := start + i
		if k >= len(r.tokens) {
			k -= len(r.tokens)
		}
		at := r.tokens[k].instance
		if !r.owners[at].active || r.clashes(dst, at) {
			continue
		}
		if dst = append(dst, at); len(dst) == n {
			return dst, nil
		}
	}
	return dst, fmt.Errorf("%w: %d of %d", ErrTooFew, len(dst), n)
}

func (r *Ring) clashes(chosen []int32, at int32) bool {
	o := r.owners[at]
	for _, c := range chosen {
		if c == at || (o.alone && r.owners[c].zone == o.zone) {
			return true
		}
	}
	return false
}

// Shares returns, for each position in Instances, the fraction of all series that have a
// replica on the ingester: 1 means every series. The sum is n, or the number of failure
// domains with an Active instance if that is less. The share of an instance that is not
// Active is 0.
func (r *Ring) Shares(n int) []float64 {
	out := make([]float64, len(r.instances))
	position := map[*Instance]int{}
	for i := range r.instances {
		position[&r.instances[i]] = i
	}
	var found []*Instance
	for i, p := range r.tokens {
		before := r.tokens[(i+len(r.tokens)-1)%len(r.tokens)].token
		width := uint64(p.token - before) // wraps around like the ring
		if len(r.tokens) == 1 {
			width = 1 << 32
		}
		found, _ = r.Replicas(p.token, n, found)
		for _, in := range found {
			out[position[in]] += float64(width) / (1 << 32)
		}
	}
	return out
}
