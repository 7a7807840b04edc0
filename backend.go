package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/alertmanager/compiler"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/election"
	electionredis "github.com/palliumhq/pallium/backend/election/redis"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ruler/shares"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// backend is the backend part of a process: its roles and the parts that they share.
type backend struct {
	*process
	roles    []role
	clock    *clock.Guard
	longTerm *store.Store
	keeper   *lifecycle.Keeper // retention and deletion in longTerm
	cluster  *membership       // nil in a single process
	push     pushFunc
	recent   *querier.Ingesters
	queries  *queries
	api      api.Options  // filled by the roles
	handler  http.Handler // serves the API; nil without a role that has a part of it

	commands *operator.Commands

	ingester      *ingester.Ingester   // nil without the role
	compactor     *compactor.Compactor // nil without the role
	ruling        *ruling              // nil without the role ruler
	alerting      *alerting            // nil without the role alertmanager
	alertCompiler *compiler.Compiler
	alertPace     *pace.Pace
	wakes         wakes
}

// buildBackend builds the backend roles of this process.
func (p *process) buildBackend(ctx context.Context) error {
	p.startup.step("opening the backend")
	b := &backend{process: p, roles: p.targets.roles()}
	p.backend = b
	if err := b.openStore(ctx); err != nil {
		return err
	}
	if p.opts.Role == Backend {
		var err error
		if b.cluster, err = p.joinRing(b); err != nil {
			return err
		}
	}
	b.buildAPIOptions()
	for _, r := range b.roles {
		if err := r.build(b, ctx); err != nil {
			return err
		}
	}
	if b.push == nil { // for this process's own metrics
		b.newDistributor()
	}
	if b.cluster != nil {
		if err := b.serveCluster(ctx); err != nil {
			return err
		}
	}
	if b.api.Push != nil || b.api.Queryable != nil {
		b.addRuleHandlers()
		var err error
		if b.api.Queryable != nil { // gateways send only writes to other processes
			err = b.addAlertHandlers()
		}
		if err != nil {
			return err
		}
		if b.handler, err = api.New(b.api); err != nil {
			return err
		}
	}
	b.commands = b.newCommands()
	return nil
}

// has reports whether the process has the role t.
func (b *backend) has(t Target) bool { return b.targets[t] }

// id returns the instance name of this process.
func (b *backend) id() string {
	if b.cluster == nil {
		return soleIngester
	}
	return b.cluster.members.Self().ID
}

// soleIngester is the instance name of a single process.
const soleIngester = "ingester-1"

// openStore opens the long-term store over the row store and the object store.
func (b *backend) openStore(ctx context.Context) error {
	b.startup.step("opening the long-term store")
	obj, err := openObjects(ctx, &b.cfg)
	if err != nil {
		return err
	}
	timed := obj
	if b.opts.wrapObjects != nil {
		obj = b.opts.wrapObjects(obj)
	}
	obj = b.cfg.Store.retriedObjects(obj, b.registry)
	b.onClose("object store", obj.Close)
	b.clock = b.guardClock(ctx, timed)
	ix, err := index.New(index.Options{Rows: b.rows, Now: b.opts.Now, Registerer: b.registry})
	if err != nil {
		return err
	}
	b.longTerm, err = store.Open(store.Options{
		Index: ix, Objects: obj, Scratch: filepath.Join(b.cfg.DataDir, "scratch"),
		Retention: b.retention, Deleted: b.control.TenantDeleted,
		PageCacheBytes: b.cfg.Store.PageCacheBytes, FrameCacheBytes: b.cfg.Store.FrameCacheBytes,
		TableCacheBytes: b.cfg.Store.TableCacheBytes, MaxQueryBytes: b.cfg.Store.MaxQueryBytes,
		Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry,
	})
	if err != nil {
		return err
	}
	b.keeper = lifecycle.New(b.longTerm)
	b.onClose("long-term store", b.longTerm.Close)
	return nil
}

// buildIngester builds the ingester role, in a single process or in a cluster.
func (b *backend) buildIngester(ctx context.Context) error {
	if b.cluster != nil {
		return b.cluster.startIngester(ctx, b)
	}
	if err := b.openIngester(ctx, ingester.Options{ID: b.id(), Replication: 1}); err != nil {
		return err
	}
	return b.learnDeletions(ctx)
}

// openIngester opens the ingester over this process's data directory.
func (b *backend) openIngester(ctx context.Context, o ingester.Options) error {
	o.MemoryBytes, o.PageCacheBytes = b.cfg.Ingester.MemoryBytes, b.localPages
	o.LongTerm, o.Dir, o.Limits = b.longTerm, filepath.Join(b.cfg.DataDir, "ingester"), b.limitsOf
	o.Now, o.Clock, o.Logger, o.Registerer = b.opts.Now, b.clock, b.opts.Logger, b.registry
	o.AsideBytes, o.Deleted, o.Replaying = b.cfg.Ingester.AsideBytes, b.control.TenantDeleted, b.startup.replay
	b.registerEarly(b.startup.collectors()...)
	b.startup.step("opening local packs and the write-ahead log")
	ing, err := ingester.Open(ctx, o)
	if err != nil {
		return err
	}
	b.ingester = ing
	b.onClose("ingester", ing.Close)
	return nil
}

// learnDeletions gives the ingester the tombstones that it lacks: those that were created while it
// was not a member, or all of them if its file of tombstones is damaged. Otherwise deleted samples
// in its log would reappear, and new samples would be deleted as if they were older than the
// tombstones. The ingester must not serve before learnDeletions returns.
func (b *backend) learnDeletions(ctx context.Context) error {
	active, _, err := b.tenants(ctx)
	if err == nil {
		err = b.ingester.LearnDeletions(ctx, active)
	}
	if err != nil {
		return fmt.Errorf("read deletions of series: %w", err)
	}
	return nil
}

// sealHead writes the head into packs, so that the next start has no log to replay. If it fails,
// nothing is lost: the log has all samples. Sealing starts even if little time is left before the
// deadline, which is only logged: the duration of sealing is unknown, and interrupting it does not
// make the next start slower.
func (b *backend) sealHead(deadline time.Time) {
	b.opts.Logger.Info("sealing the head before exit; if interrupted, the next start replays the write-ahead log",
		"head_bytes", b.ingester.Stats().HeadBytes, "time_left", deadline.Sub(b.opts.Now()).Round(time.Millisecond))
	if err := b.ingester.Flush(); err != nil {
		b.opts.Logger.Warn("could not seal the head before exit: the next start replays the write-ahead log", "err", err)
	}
}

// buildCompactor builds the compactor role and runs it until the process ends.
func (b *backend) buildCompactor(context.Context) error {
	b.compactor = compactor.New(compactor.Options{
		ID: b.id(), Store: b.longTerm, Lifecycle: b.keeper, Retention: b.retention, Tenants: b.tenants,
		KeepDeletions: func(t tenant.ID) time.Duration {
			const spare = 14 * 24 * time.Hour
			if grace := time.Duration(b.limitsOf(t).PastGrace); grace > 0 {
				return grace + spare
			}
			return 1 << 62 // samples of any age are accepted: keep deletions forever
		},
		Interval: time.Duration(b.cfg.Compactor.Interval), InputBytes: compactionBytes(debug.SetMemoryLimit(-1)),
		Now: b.opts.Now, Clock: b.clock, Logger: b.opts.Logger, Registerer: b.registry,
	})
	b.start("compactor", b.compactor.Run)
	return nil
}

// compactionBytes returns the limit in bytes for the input of concurrent compactions. It is
// a small part of limit, the limit of Go's memory, because decoded input is several times as
// large.
func compactionBytes(limit int64) int64 { return min(max(limit/32, 16<<20), 256<<20) }

// buildDistributor builds the distributor role.
func (b *backend) buildDistributor(context.Context) error {
	b.api.Push = b.newDistributor()
	if b.cluster != nil {
		distributor.ZoneMetrics(b.background.Context(), b.cluster.members, b.cfg.Cluster.Replication, b.registry)
	}
	return nil
}

// newDistributor builds the distributor of this process and returns its Push.
func (b *backend) newDistributor() pushFunc {
	o := distributor.Options{Now: b.opts.Now, Registerer: b.registry,
		Fence: shares.NewFence(b.longTerm.Options().Index.Shares, b.running()).Check}
	var elections election.Store
	if b.cluster == nil {
		o.Local = b.ingester
		elections = election.NewMemory(b.opts.Now)
	} else {
		b.cluster.distribute(b, &o)
		elections = electionredis.New(b.redis, b.signer, electionredis.Options{Logger: b.opts.Logger, Registerer: b.registry})
	}
	o.HA = distributor.NewHA(distributor.HAOptions{Store: elections, Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry})
	b.start("elections of replicas", o.HA.Run)
	dist := distributor.New(o)
	b.onClose("distributor", dist.Close)
	b.push = dist.Push
	return dist.Push
}

// buildAPIOptions sets the API options that the roles share.
func (b *backend) buildAPIOptions() {
	if b.cluster == nil {
		b.recent = querier.OneIngester(localIngester{b})
	} else {
		b.recent = b.cluster.recent(b)
	}
	b.onClose("requests to ingesters that are still in progress", b.recent.Close)
	b.api = api.Options{
		Limits: b.limitsOf, Memory: b.memory, Gate: querier.NewGate(b.registry), SeriesCount: b.recent.SeriesCount,
		Head: b.recent.HeadStats, Now: b.opts.Now,
		Active: active.New(active.Options{Slow: time.Duration(b.cfg.Querier.LogQueriesLongerThan), Now: b.opts.Now,
			Logger: b.opts.Logger, Registerer: b.registry}),
		Lookback: querier.LookbackDelta, Logger: b.opts.Logger, Registerer: b.registry,
		CleanTombstones: b.cleanTombstones,
	}
}

// cleanTombstones requests that a tenant's deleted series are removed from all packs now. A
// compactor of this process starts at once, one of another process at its next interval.
func (b *backend) cleanTombstones(ctx context.Context, id tenant.ID) error {
	days, err := b.keeper.CleanDeletions(ctx, id)
	if err == nil && days > 0 && b.compactor != nil {
		b.compactor.Wake()
	}
	return err
}

// deleteRecent deletes series from all ingesters.
func (b *backend) deleteRecent(ctx context.Context, id tenant.ID, ts schema.Tombstone) error {
	if b.cluster == nil {
		return b.ingester.Delete(id, ts)
	}
	return b.cluster.deleteRecent(ctx, id, ts)
}

// retention returns how long a tenant's samples are kept. After an error, the caller must
// not delete anything.
func (b *backend) retention(ctx context.Context, t tenant.ID) (time.Duration, error) {
	lim, err := b.control.Limits(ctx, t)
	if errors.Is(err, tenant.ErrUnknown) {
		return 0, nil // deleted: the sweep deletes its data
	}
	return time.Duration(lim.Retention), err
}

// tenants returns the active and the deleted tenants.
func (b *backend) tenants(ctx context.Context) (active, deleted []tenant.ID, err error) {
	err = b.control.AllTenants(ctx, func(t control.Tenant) bool {
		if t.Deleted() {
			deleted = append(deleted, t.ID)
		} else {
			active = append(active, t.ID)
		}
		return true
	})
	return active, deleted, err
}

// internal returns the handler of internal_listen, which only authenticated gateways of
// the cluster can reach: the API, for requests that a gateway has authenticated, and the
// operators' commands, for which the gateway has checked the credential and writes the
// audit log.
func (b *backend) internal() http.Handler {
	commands := admin.Passed(operator.Root, b.commands.Routes, b.opts.Logger)
	queries := http.Handler(api.NotServed("distributor, querier or query-frontend"))
	if b.handler != nil {
		queries = api.ForGateways(b.handler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, operator.Root+"/") {
			commands.ServeHTTP(w, r)
			return
		}
		queries.ServeHTTP(w, r)
	})
}

// localIngester adapts this process's ingester to querier.Ingester.
type localIngester struct{ b *backend }

func (l localIngester) Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error) {
	return l.b.ingester.Select(ctx, req)
}

func (l localIngester) Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error) {
	if name == "" {
		return l.b.ingester.LabelNames(ctx, req)
	}
	return l.b.ingester.LabelValues(ctx, name, req)
}

func (l localIngester) Metadata(_ context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	return l.b.ingester.Metadata(id), nil
}

func (l localIngester) SeriesCount(_ context.Context, id tenant.ID) (int, error) {
	return l.b.ingester.SeriesCount(id), nil
}

func (l localIngester) HeadStats(_ context.Context, id tenant.ID) (series.HeadStats, error) {
	return l.b.ingester.HeadStats(id), nil
}

func (l localIngester) Version(_ context.Context, id tenant.ID) (series.IngesterVersion, error) {
	return l.b.ingester.Version(id), nil
}

func (l localIngester) Exemplars(
	ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher,
) ([]exemplar.QueryResult, error) {
	return l.b.ingester.Exemplars(ctx, id, mint, maxt, sets)
}
