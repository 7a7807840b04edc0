// Package lifecycle deletes data from the long-term store: days beyond retention,
// deleted series and tenants, and packs and rows that nothing refers to any more.
// docs/format/store.md lists the order of all deletions and the state after a crash
// between any two of them.
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

// Keeper deletes data from a store. It is safe for concurrent use.
type Keeper struct {
	opts   store.Options
	index  *index.Index
	store  *store.Store
	fenced prometheus.Counter
}

// New returns a Keeper for a store, with the options of the store.
func New(s *store.Store) *Keeper {
	o := s.Options()
	fenced := promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{Name: "pallium_store_fences_raised_total",
		Help: "Fences raised by sweeps before they delete objects and rows of unpublished compactions; compactions that still run " +
			"must start again."})
	return &Keeper{opts: o, index: o.Index, store: s, fenced: fenced}
}

func (k *Keeper) nowMillis() int64 { return k.opts.Now().UnixMilli() }

// tenantDay identifies a catalog row.
func tenantDay(t tenant.ID, day int64) index.TenantDay { return index.TenantDay{Tenant: t, Day: day} }

// fenceLife is the time for which the fence number of an expired day is kept. It is
// longer than any attempt may take.
const fenceLife = 7 * 24 * time.Hour

// forgetFence deletes the fence number of an empty day once fenceLife has passed, when
// no attempt that started before the day expired can still be running.
func (k *Keeper) forgetFence(ctx context.Context, c *index.Catalog) error {
	at, ok := c.VersionTime()
	if !ok || c.Manifest != nil || len(c.L0) > 0 || k.nowMillis()-at < fenceLife.Milliseconds() {
		return nil
	}
	return k.index.Catalogs.ForgetFence(ctx, c)
}

// DropL0 removes the L0 packs from a day's catalog without compacting them, because
// the day is beyond retention or its tenant was deleted.
func (k *Keeper) DropL0(ctx context.Context, c *index.Catalog) error {
	return k.index.Catalogs.DropL0(ctx, c)
}
