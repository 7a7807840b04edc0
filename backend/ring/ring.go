// Package ring places series on ingesters: a pure function of the ring's
// members and a series' token. Who is a member is the business of an adapter
// (in process, later Redis) behind Membership.
package ring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand"
	"slices"
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

// Instance is a member of the ring.
type Instance struct {
	ID     string
	Addr   string // host:port for calls between processes; empty in process
	Zone   string
	State  State
	Tokens []uint32 // sorted, kept over restarts
}

// Membership tells who is in the ring now. Implementations keep the last known
// ring when their source is lost; an error means that none was ever known.
type Membership interface {
	Ring(ctx context.Context) (*Ring, error)
}

// ErrTooFew is returned when there are fewer usable instances than replicas
// needed.
var ErrTooFew = errors.New("too few ingesters in the ring")

// Ring is an immutable set of instances.
type Ring struct {
	instances []Instance
	tokens    []placed // sorted by token
}

type placed struct {
	token    uint32
	instance int32
}

// New makes a ring of the instances.
func New(instances []Instance) *Ring {
	r := &Ring{instances: slices.Clone(instances)}
	slices.SortFunc(r.instances, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	for i, in := range r.instances {
		for _, t := range in.Tokens {
			r.tokens = append(r.tokens, placed{t, int32(i)})
		}
	}
	slices.SortFunc(r.tokens, func(a, b placed) int {
		if c := cmp.Compare(a.token, b.token); c != 0 {
			return c
		}
		return cmp.Compare(a.instance, b.instance)
	})
	return r
}

// Instances returns the members by ID.
func (r *Ring) Instances() []Instance { return r.instances }

// Replicas appends to dst the n instances that hold the series with the token:
// those met first when walking the ring upwards from it, each once, no two of
// one zone where zones are set. Instances that are not Active are passed over.
func (r *Ring) Replicas(token uint32, n int, dst []*Instance) ([]*Instance, error) {
	dst = dst[:0]
	if len(r.tokens) == 0 {
		return dst, ErrTooFew
	}
	start, _ := slices.BinarySearchFunc(r.tokens, token, func(p placed, t uint32) int { return cmp.Compare(p.token, t) })
	for i := range r.tokens {
		in := &r.instances[r.tokens[(start+i)%len(r.tokens)].instance]
		if in.State != Active || clashes(dst, in) {
			continue
		}
		if dst = append(dst, in); len(dst) == n {
			return dst, nil
		}
	}
	return dst, fmt.Errorf("%w: %d of %d", ErrTooFew, len(dst), n)
}

func clashes(chosen []*Instance, in *Instance) bool {
	for _, c := range chosen {
		if c == in || (in.Zone != "" && c.Zone == in.Zone) {
			return true
		}
	}
	return false
}

// Tokens makes an instance's tokens. They follow from its ID, so an instance
// that lost its disk comes back to the same places.
func Tokens(id string) []uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	rnd := rand.New(rand.NewSource(int64(h.Sum64())))
	out := make([]uint32, 0, TokensPerInstance)
	for len(out) < TokensPerInstance {
		if t := rnd.Uint32(); !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}
