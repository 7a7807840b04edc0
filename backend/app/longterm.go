package app

import (
	"context"
	"errors"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// buildStore opens the long-term store over the row store and the objects.
func (a *App) buildStore(ctx context.Context) error {
	a.startup.step("opening the long-term store")
	obj, err := openObjects(ctx, &a.cfg)
	if err != nil {
		return err
	}
	timed := obj
	if a.opts.wrapObjects != nil {
		obj = a.opts.wrapObjects(obj)
	}
	a.onClose("object store", obj.Close)
	a.guardClock(ctx, timed)
	ix, err := index.New(index.Options{Rows: a.store, Now: a.opts.Now, Registerer: a.registry})
	if err != nil {
		return err
	}
	a.longTerm, err = store.Open(store.Options{
		Index: ix, Objects: obj, Scratch: filepath.Join(a.cfg.DataDir, "scratch"),
		Retention: a.retention, Deleted: a.tenantDeleted,
		PageCacheBytes: a.cfg.Store.PageCacheBytes, FrameCacheBytes: a.cfg.Store.FrameCacheBytes,
		TableCacheBytes: a.cfg.Store.TableCacheBytes, MaxQueryBytes: a.cfg.Store.MaxQueryBytes,
		Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.lifecycle = lifecycle.New(a.longTerm)
	a.onClose("long-term store", a.longTerm.Close)
	return nil
}

// buildCompactor builds the compactor and runs it until the process ends.
func (a *App) buildCompactor(id string) {
	a.compactor = compactor.New(compactor.Options{
		ID: id, Store: a.longTerm, Lifecycle: a.lifecycle, Retention: a.retention, Tenants: a.tenants,
		KeepDeletions: func(t tenant.ID) time.Duration {
			const spare = 14 * 24 * time.Hour
			if grace := time.Duration(a.limitsOf(t).PastGrace); grace > 0 {
				return grace + spare
			}
			return 1 << 62 // samples of any age may come: deletions are kept
		},
		Interval: time.Duration(a.cfg.Compactor.Interval), InputBytes: compactionBytes(debug.SetMemoryLimit(-1)), Now: a.opts.Now, Clock: a.clock, Logger: a.opts.Logger, Registerer: a.registry,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { a.compactor.Run(ctx) })
	a.closeWorker("compactor", cancel, &done)
}

// compactionBytes is how many bytes tenants that are compacted at once may merge
// together, with so much memory for Go: what they hold expanded is several times
// as much.
func compactionBytes(limit int64) int64 { return min(max(limit/32, 16<<20), 256<<20) }

// retention is how long a tenant's samples are kept. When that cannot be told,
// nothing may be deleted for it.
func (a *App) retention(ctx context.Context, t tenant.ID) (time.Duration, error) {
	lim, err := a.control.Limits(ctx, t)
	if errors.Is(err, tenant.ErrUnknown) {
		return 0, nil // deleted: what is left of it goes another way
	}
	return time.Duration(lim.Retention), err
}

func (a *App) tenantDeleted(ctx context.Context, t tenant.ID) (bool, error) {
	return a.control.TenantDeleted(ctx, t)
}

// tenants lists those whose data is kept and those that were deleted.
func (a *App) tenants(ctx context.Context) (active, deleted []tenant.ID, err error) {
	err = a.control.AllTenants(ctx, func(t control.Tenant) bool {
		if t.Deleted() {
			deleted = append(deleted, t.ID)
		} else {
			active = append(active, t.ID)
		}
		return true
	})
	return active, deleted, err
}

// l0Gone is how long after a tenant's deletion packs that hold many tenants may
// still have samples of it: until they are compacted, and a week.
const l0Gone = 9 * 24 * time.Hour

// deleteSeries deletes a tenant's series everywhere: numbered, then sealed and
// learned by the ingester, then active for all packs.
func (a *App) deleteSeries(ctx context.Context, d api.Deletion) error {
	reserved, err := a.lifecycle.ReserveDeletion(ctx, d.Tenant, d.MinTime, d.MaxTime, d.Sets)
	if err != nil {
		return err
	}
	if err := a.deleteRecent(ctx, d.Tenant, reserved); err != nil {
		return err
	}
	return a.lifecycle.ActivateDeletion(ctx, d.Tenant, reserved)
}
