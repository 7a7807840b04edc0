// Package ring places series on ingesters: a pure function of the ring's
// members and a series' token. Who is a member is the business of an adapter
// (in process, later Redis) behind Membership.
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

// TokensPerInstance is how many places an ingester takes on the ring: enough
// that shares differ little, few enough that a walk is short.
const TokensPerInstance = 128

// State of an instance.
type State string

// Only Active instances take new series; the others are still read from.
const (
	Joining State = "JOINING"
	Active  State = "ACTIVE"
	Leaving State = "LEAVING"
)

// Instance is a process that registered itself.
type Instance struct {
	ID    string
	Addr  string   // host:port for calls between processes; empty in process
	Zone  string   // empty without zones
	Roles []string // what the process does
	State State
	// Tokens are the instance's places, sorted and kept over restarts. Only
	// ingesters have any.
	Tokens []uint32
	// Incarnation changes when an instance comes back without its disk.
	Incarnation string
	Registered  time.Time     // when it registered first
	Silent      time.Duration // since its last heartbeat
	Unhealthy   bool          // silent for too long
}

// Domain is what fails together with the instance: its zone, or without zones
// itself.
func (in *Instance) Domain() string {
	if in.Zone != "" {
		return "zone " + in.Zone
	}
	return in.ID
}

// ErrUnknown is returned while no ring was ever seen.
var ErrUnknown = errors.New("the ring is not known yet: Redis has not answered since this process started, or was emptied a moment ago")

// Membership tells who is in the ring now. Implementations keep the last known
// ring when their source is lost; ErrUnknown means that none was ever known.
type Membership interface {
	Ring(ctx context.Context) (*Ring, error)
}

// ErrTooFew is returned when there are fewer usable instances than replicas
// needed.
var ErrTooFew = errors.New("too few ingesters in the ring")

// Ring is an immutable set of instances.
type Ring struct {
	instances []Instance // those with tokens
	others    []Instance
	tokens    []placed // sorted by token
	owners    []owner  // of instances
	zones     []zone
	only      map[int32]bool // positions that are in a shard; nil: all
}

type placed struct {
	token    uint32
	instance int32
}

// zone is the ring of one zone's instances alone.
type zone struct {
	name      string
	instances int
	tokens    []placed
}

// owner is what a walk has to know of an instance.
type owner struct {
	zone   int32
	active bool
	alone  bool // no other instance of the zone may hold the same series
}

// New makes a ring of the instances. Those without tokens are only listed.
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

// Refresh returns the same ring with instances of which update changed what does
// not matter to placement: how long they are silent, and whether too long.
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

// Places reports whether the other ring places every series on the same
// instances because it was made from the same by Refresh.
func (r *Ring) Places(o *Ring) bool {
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

// Instances returns the ingesters by ID.
func (r *Ring) Instances() []Instance { return r.instances }

// Others returns the members without tokens by ID.
func (r *Ring) Others() []Instance { return r.others }

// Domains counts the failure domains with an Active ingester: as many replicas of a
// series Replicas finds, and no more.
func (r *Ring) Domains() int {
	seen := map[string]bool{}
	for i := range r.instances {
		if in := &r.instances[i]; in.State == Active {
			seen[in.Domain()] = true
		}
	}
	return len(seen)
}

// Replicas appends to dst[:0] the n instances that hold the series with the
// token: those met first when walking the ring upwards from it, each once, no
// two of one zone where zones are set. Instances that are not Active are passed
// over: while one joins or leaves, the next takes its place.
func (r *Ring) Replicas(token uint32, n int, dst []*Instance) ([]*Instance, error) {
	var few [8]int32
	found, err := r.Positions(token, n, few[:0])
	dst = dst[:0]
	for _, at := range found {
		dst = append(dst, &r.instances[at])
	}
	return dst, err
}

// Positions is Replicas by their positions in Instances.
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

// Shares returns which part of all series each ingester holds a replica of, by
// its position in Instances, as a part of the whole that sums up to n: 1 means
// every series. Instances that are not Active have none.
func (r *Ring) Shares(n int) []float64 {
	out := make([]float64, len(r.instances))
	position := map[*Instance]int{}
	for i := range r.instances {
		position[&r.instances[i]] = i
	}
	var found []*Instance
	for i, p := range r.tokens {
		before := r.tokens[(i+len(r.tokens)-1)%len(r.tokens)].token
		width := p.token - before // wraps round as the ring does
		if len(r.tokens) == 1 {
			out[p.instance] = 1
			return out
		}
		found, _ = r.Replicas(p.token, n, found)
		for _, in := range found {
			out[position[in]] += float64(width) / (1 << 32)
		}
	}
	return out
}
