package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/wire"
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
	a.longTerm, err = store.Open(store.Options{
		Rows: a.store, Objects: obj, Scratch: filepath.Join(a.cfg.DataDir, "scratch"),
		Retention: a.retention, Deleted: a.tenantDeleted,
		PageCacheBytes: a.cfg.Store.PageCacheBytes, FrameCacheBytes: a.cfg.Store.FrameCacheBytes,
		TableCacheBytes: a.cfg.Store.TableCacheBytes, MaxQueryBytes: a.cfg.Store.MaxQueryBytes,
		Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.onClose("long-term store", a.longTerm.Close)
	return nil
}

// buildCompactor builds the compactor and runs it until the process ends.
func (a *App) buildCompactor(id string) {
	a.compactor = compactor.New(compactor.Options{
		ID: id, Store: a.longTerm, Retention: a.retention, Tenants: a.tenants,
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

// compact compacts everything that is uploaded, open days too. With wait=true it
// answers when that is done, else at once. With expire=all it takes all days that are
// beyond retention after that.
func (a *App) compact(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	expire := r.URL.Query().Get("expire")
	if expire != "" && (expire != "all" || a.compactor == nil) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "invalid", "field": "expire", "message": "expire must be \"all\", and the request must go to the admin address of a process with the role compactor"})
		return
	}
	if r.URL.Query().Get("wait") != "true" {
		a.background.Go(func() {
			if _, err := a.compactAll(a.running, expire == "all"); err != nil {
				a.opts.Logger.Error("compaction failed", "err", err)
			}
		})
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]string{"status": "started"})
		return
	}
	report, err := a.compactAll(r.Context(), expire == "all")
	if err != nil {
		a.opts.Logger.Error("compaction failed", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "internal", "message": "compaction failed, see the log: nothing is lost, what was not compacted stays where it was"})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "done", "days": report.Days, "published": report.Published, "series": report.Series, "samples": report.Samples})
}

// compactAll compacts what is uploaded, here or, without the role, where it is. Here
// it can also expire all days beyond retention.
func (a *App) compactAll(ctx context.Context, expire bool) (compactor.Report, error) {
	if a.compactor != nil {
		report, err := a.compactor.Compact(ctx, compactor.All)
		if err == nil && expire {
			err = a.compactor.ExpireAll(ctx)
		}
		return report, err
	}
	r, err := a.members.Ring(ctx)
	if err != nil {
		return compactor.Report{}, err
	}
	errs := errors.New("no compactor is in the ring")
	for _, in := range slices.Concat(r.Others(), r.Instances()) {
		if !slices.Contains(in.Roles, string(TargetCompactor)) || in.Unhealthy {
			continue
		}
		p, err := a.pool.Peer(in.Addr)
		if err == nil {
			var out wire.CompactResponse
			if out, err = p.Compact(ctx); err == nil {
				return compactor.Report{Days: int(out.Days), Published: int(out.Published), Series: out.Series, Samples: out.Samples}, nil
			}
		}
		errs = errors.Join(errs, fmt.Errorf("compactor %s: %w", in.ID, err))
	}
	return compactor.Report{}, errs
}

// acceptLoss lets a day be compacted although ingesters that owe samples of it
// are lost.
func (a *App) acceptLoss(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	day, err := strconv.ParseInt(r.URL.Query().Get("day"), 10, 64)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "invalid", "field": "day", "message": "day must be the number of a UTC day since 1970, as the log and the operator page name it"})
		return
	}
	n, err := a.longTerm.AcceptLoss(r.Context(), day)
	if err == nil && a.ingester != nil {
		var lost int
		lost, err = a.ingester.AcceptLoss(day)
		n += lost
	}
	if err != nil {
		a.opts.Logger.Error("accept-loss failed", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "internal", "message": fmt.Sprintf("the intents of day %d could not be taken back, see the log", day)})
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "done", "intents": n})
}

// l0Gone is how long after a tenant's deletion packs that hold many tenants may
// still have samples of it: until they are compacted, and a week.
const l0Gone = 9 * 24 * time.Hour

// erasure reports what was erased of a deleted tenant.
func (a *App) erasure(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := func(code int, v any) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	id, err := tenant.ParseID(chi.URLParam(r, "tenant"))
	if err != nil {
		answer(http.StatusBadRequest, map[string]string{"code": "invalid", "field": "tenant", "message": err.Error()})
		return
	}
	var deleted time.Time
	err = a.control.AllTenants(r.Context(), func(t control.Tenant) bool {
		if t.ID == id && t.Deleted() {
			deleted = t.DeletedAt
		}
		return t.ID != id
	})
	if err == nil && deleted.IsZero() {
		answer(http.StatusNotFound, map[string]string{"code": "not_found", "message": fmt.Sprintf("tenant %q is not a deleted tenant", id)})
		return
	}
	var e store.Erased
	if err == nil {
		e, err = a.longTerm.Erasure(r.Context(), id)
	}
	if err != nil {
		a.opts.Logger.Error("report of a tenant's deletion", "tenant", id, "err", err)
		answer(http.StatusInternalServerError, map[string]string{"code": "internal", "message": "the report could not be read, see the log"})
		return
	}
	answer(http.StatusOK, map[string]any{"tenant": id, "deletedAt": deleted.UTC(), "erasedObjects": e.Objects, "erasedBytes": e.Bytes, "erasedIndex": e.Rows,
		"sharedPacksGoneBy": deleted.Add(l0Gone).UTC()})
}

// metadata is what is known of a tenant's metrics: by the ingester, and of those
// that it does not know any more, by the days that were published last.
func (a *App) metadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	const days = 2
	today := series.Day(a.opts.Now().UnixMilli())
	long, err := a.longTerm.Metadata(ctx, id, max(today-days, 0), today)
	if err != nil {
		return nil, err
	}
	known, err := a.knownMetadata(ctx, id)
	if err != nil {
		return nil, err
	}
	out := append(known, long...)
	slices.SortStableFunc(out, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
	return slices.CompactFunc(out, func(a, b series.MetricMetadata) bool { return a.Metric == b.Metric }), nil
}

// flushAll seals the head and uploads what is sealed, of this ingester or, where
// there is none, of all.
func (a *App) flushAll(ctx context.Context) error {
	if a.ingester == nil {
		return a.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error { return p.Flush(ctx) })
	}
	if err := a.ingester.Flush(); err != nil {
		return err
	}
	return a.ingester.Upload(ctx)
}

// deleteSeries deletes a tenant's series everywhere: numbered, then sealed and
// learned by the ingester, then active for all packs.
func (a *App) deleteSeries(ctx context.Context, d api.Deletion) error {
	reserved, err := a.longTerm.ReserveDeletion(ctx, d.Tenant, d.MinTime, d.MaxTime, d.Sets)
	if err != nil {
		return err
	}
	if err := a.deleteRecent(ctx, d.Tenant, reserved); err != nil {
		return err
	}
	return a.longTerm.ActivateDeletion(ctx, d.Tenant, reserved)
}
