// Package local is the ring of one process: its members are given once.
package local

import (
	"context"
	"slices"

	"github.com/palliumhq/pallium/backend/ring"
)

// Membership is a ring that does not change.
type Membership struct{ ring *ring.Ring }

var _ ring.Membership = Membership{}

// New returns a membership of Active instances with the given IDs.
func New(ids ...string) Membership {
	ids = slices.Sorted(slices.Values(ids)) // the order must not matter
	var instances []ring.Instance
	for _, id := range ids {
		instances = append(instances, ring.Instance{ID: id, State: ring.Active, Tokens: ring.PlaceTokens("", instances)})
	}
	return Membership{ring.New(instances)}
}

// Ring implements ring.Membership.
func (m Membership) Ring(context.Context) (*ring.Ring, error) { return m.ring, nil }
