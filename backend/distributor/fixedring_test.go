package distributor

import (
	"context"
	"slices"

	"github.com/palliumhq/pallium/backend/ring"
)

// fixedRing is a ring whose members never change.
type fixedRing struct{ ring *ring.Ring }

var _ ring.Membership = fixedRing{}

// newFixedRing returns a membership of Active instances with the given IDs.
func newFixedRing(ids ...string) fixedRing {
	ids = slices.Sorted(slices.Values(ids)) // the order must not matter
	var instances []ring.Instance
	for _, id := range ids {
		instances = append(instances, ring.Instance{ID: id, State: ring.Active, Tokens: ring.PlaceTokens("", instances)})
	}
	return fixedRing{ring.New(instances)}
}

// Ring implements ring.Membership.
func (m fixedRing) Ring(context.Context) (*ring.Ring, error) { return m.ring, nil }
