// Package lifecycle ends what the long-term store holds: days that are beyond
// retention, series and tenants that were deleted, packs and rows that nothing refers
// to any more. docs/format/store.md has the order of every deletion and what holds
// after a crash between any two of them.
package lifecycle

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/store"
)

// Keeper works on a store. It is safe for concurrent use.
type Keeper struct {
	opts   store.Options
	index  *index.Index
	store  *store.Store
	fenced prometheus.Counter
}

// New returns a keeper of a store, with its options.
func New(s *store.Store) *Keeper {
	o := s.Options()
	fenced := promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{Name: "pallium_store_fences_raised_total",
		Help: "Times that a sweep made compactions of a tenant's day begin again, before it deleted leftovers of the day."})
	return &Keeper{opts: o, index: o.Index, store: s, fenced: fenced}
}

func (k *Keeper) nowMillis() int64 { return k.opts.Now().UnixMilli() }

// tenantDay names a catalog row.
func tenantDay(t tenant.ID, day int64) index.TenantDay { return index.TenantDay{Tenant: t, Day: day} }

// fenceLife is how long the fence number of an expired day is kept; above any
// attempt's time.
const fenceLife = 7 * 24 * time.Hour

// forgetFence takes the fence number of a day that holds nothing, once no attempt
// of before it can be under way.
func (k *Keeper) forgetFence(ctx context.Context, c *index.Catalog) error {
	at, ok := c.VersionTime()
	if !ok || c.Manifest != nil || len(c.L0) > 0 || k.nowMillis()-at < fenceLife.Milliseconds() {
		return nil
	}
	return k.index.Catalogs.ForgetFence(ctx, c)
}

// DropL0 takes the L0 packs out of a day's catalog without compacting them: the
// day is beyond retention, or its tenant was deleted.
func (k *Keeper) DropL0(ctx context.Context, c *index.Catalog) error {
	return k.index.Catalogs.DropL0(ctx, c)
}
