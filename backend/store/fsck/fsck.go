// Package fsck checks that the packs of the long-term store and its index are
// consistent, and rebuilds the index from the packs.
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

// Checker checks and repairs a store. It is safe for concurrent use.
type Checker struct {
	opts  store.Options
	index *index.Index
	store *store.Store
}

// Progress is called with the completed part of the work, from 0 to 1, and the tenant and
// day that are processed next. It may be nil.
type Progress func(done float64, next string)

// day reports that a day of a tenant is processed next.
func (p Progress) day(c *index.Catalog, tenantsDone, tenants, daysDone, days int) {
	if p != nil {
		done := (float64(tenantsDone) + float64(daysDone)/float64(days)) / float64(tenants)
		p(done, fmt.Sprintf("tenant %s, day %d", c.Tenant, c.Day))
	}
}

// New returns a Checker for a store, with the options of the store.
func New(s *store.Store) *Checker {
	o := s.Options()
	return &Checker{opts: o, index: o.Index, store: s}
}

// Tenants returns the tenants with rows in the index or compacted packs in the
// object store, ascending.
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
