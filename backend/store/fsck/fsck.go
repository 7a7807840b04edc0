// Package fsck checks what must hold between the packs of the long-term store and
// its index, and makes the index again from the packs.
package fsck

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/store"
)

// Checker checks and mends a store. It is safe for concurrent use.
type Checker struct {
	opts  store.Options
	index *index.Index
	store *store.Store
}

// Progress is told how much is done, from 0 to 1, and what is done next; nil: nobody is.
type Progress func(done float64, next string)

// day tells that one of a tenant's days is next.
func (p Progress) day(c *index.Catalog, tenantsDone, tenants, daysDone, days int) {
	if p != nil {
		done := (float64(tenantsDone) + float64(daysDone)/float64(days)) / float64(tenants)
		p(done, fmt.Sprintf("tenant %s, day %d", c.Tenant, c.Day))
	}
}

// New returns a checker of a store, with its options.
func New(s *store.Store) *Checker {
	o := s.Options()
	return &Checker{opts: o, index: o.Index, store: s}
}

// Tenants lists the tenants that the index or the object store has anything of,
// ascending.
func (k *Checker) Tenants(ctx context.Context) ([]tenant.ID, error) {
	set := map[tenant.ID]struct{}{}
	list, err := k.index.Tenants.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range list {
		set[t] = struct{}{}
	}
	err = k.opts.Objects.List(ctx, "l1/", func(o objects.Object) bool {
		if parts := strings.Split(o.Name, "/"); len(parts) == 4 {
			set[tenant.ID(parts[1])] = struct{}{}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return slices.Sorted(maps.Keys(set)), nil
}
