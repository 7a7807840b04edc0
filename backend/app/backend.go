package app

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/election"
	electionredis "github.com/palliumhq/pallium/backend/election/redis"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/gateway/admin"
)

// openIngester opens the ingester over this process's data directory.
func (a *App) openIngester(ctx context.Context, o ingester.Options) error {
	o.MemoryBytes, o.PageCacheBytes = a.cfg.Ingester.MemoryBytes, a.localPages
	o.LongTerm, o.Dir, o.Limits = a.longTerm, filepath.Join(a.cfg.DataDir, "ingester"), a.limitsOf
	o.Now, o.Clock, o.Logger, o.Registerer = a.opts.Now, a.clock, a.opts.Logger, a.registry
	o.AsideBytes, o.Deleted, o.Replaying = a.cfg.Ingester.AsideBytes, a.tenantDeleted, a.startup.replay
	a.registerEarly(a.startup.collectors()...)
	a.startup.step("opening local packs and the write-ahead log")
	ing, err := ingester.Open(ctx, o)
	if err != nil {
		return err
	}
	a.ingester = ing
	a.onClose("ingester", ing.Close)
	return nil
}

// apiOptions are those of the API that one process and a cluster share.
func (a *App) apiOptions(recent *querier.Ingesters) api.Options {
	syntax := parser.Options{EnableExperimentalFunctions: a.cfg.Querier.ExperimentalFunctions}
	return api.Options{
		Queryable: querier.NewQueryable(querier.Both(recent, a.longTerm), a.limitsOf, a.opts.Now, a.opts.Logger),
		Engine:    querier.NewEngine(a.limitsOf, querier.NewParser(syntax, querier.MaxOperators), a.opts.Logger, a.registry),
		Parser:    querier.NewParser(syntax, querier.MaxPrettyOperators),
		Delete:    a.deleteSeries, SeriesCount: recent.SeriesCount, Limits: a.limitsOf,
		Metadata: func(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
			return querier.Metadata(ctx, recent, a.longTerm, id, a.opts.Now())
		},
		Memory: a.memory, Gate: querier.NewGate(a.registry),
		Lookback: querier.LookbackDelta, Logger: a.opts.Logger, Registerer: a.registry,
	}
}

// soleIngester is the name of the ingester of a process that is the only one.
const soleIngester = "ingester-1"

// buildAll builds every backend role of one process, wired by plain calls.
func (a *App) buildAll(ctx context.Context) error {
	const id = soleIngester
	if err := a.buildStore(ctx); err != nil {
		return err
	}
	if err := a.openIngester(ctx, ingester.Options{ID: id, Replication: 1}); err != nil {
		return err
	}
	if err := a.learnDeletions(ctx); err != nil {
		return err
	}
	a.buildCompactor(id)
	ha := a.buildHA(election.NewMemory(a.opts.Now))
	dist := distributor.New(distributor.Options{Local: a.ingester, HA: ha, Limits: a.limitsOf, Now: a.opts.Now, Registerer: a.registry})
	a.push = dist.Push
	o := a.apiOptions(querier.OneIngester(localIngester{a.ingester}))
	o.Push = dist.Push
	a.deleteRecent = func(_ context.Context, id tenant.ID, ts schema.Tombstone) error { return a.ingester.Delete(id, ts) }
	a.backend = api.New(o)
	return nil
}

// buildTargets builds the roles of one process of a cluster.
func (a *App) buildTargets(ctx context.Context) error {
	if err := a.buildStore(ctx); err != nil {
		return err
	}
	if err := a.joinRing(); err != nil {
		return err
	}
	a.recovery = a.newRecovery()
	t := a.opts.Targets
	if t[TargetIngester] {
		if err := a.startIngester(ctx); err != nil {
			return err
		}
	}
	if t[TargetCompactor] {
		a.buildCompactor(a.members.Self().ID)
	}
	dist := a.buildDistributor() // for this process's own metrics, at least
	a.zoneMetrics()
	if t[TargetDistributor] || t[TargetQuerier] {
		a.buildAPI(dist)
	}
	if !t[TargetIngester] {
		if err := a.members.Join(ctx, ring.Active); err != nil {
			return err
		}
	}
	var ing rpc.Ingester
	var comp rpc.Compactor
	if a.ingester != nil {
		ing = a.ingester
	}
	if a.compactor != nil {
		comp = a.compactor
	}
	a.rpc = rpc.NewServer(a.security, ing, comp, a.memory)
	a.rpc.ServeOperator(operator{a})
	return nil
}

// startIngester finds the ingester's place in the ring and opens it. It takes
// writes when the process listens; see Run.
func (a *App) startIngester(ctx context.Context) error {
	a.startup.step("waiting for Redis to give this ingester its place in the ring")
	if err := a.members.Join(ctx, ring.Joining); err != nil {
		return err
	}
	a.startup.step("finding out whether an ingester of this name was lost with its disk; if so, waiting until all queriers know")
	fresh, err := a.recovery.MarkForerunner(ctx)
	if err != nil {
		return err
	}
	self := a.members.Self()
	o := ingester.Options{ID: self.ID, Zone: self.Zone, Replication: a.cfg.Cluster.Replication, ShardSize: a.shardOf,
		TakenBy: a.recovery.TakenBy, Damaged: a.recovery.MarkDamaged}
	if err := a.openIngester(ctx, o); err != nil {
		return err
	}
	a.startup.step("reading deletions of series that were made meanwhile")
	a.leaver = a.recovery.Leaver(a.ingester)
	if err := a.learnDeletions(ctx); err != nil {
		return err
	}
	if fresh {
		a.recovery.AskForActive(ctx, a.ingester)
	}
	return nil
}

// learnDeletions has the ingester learn of the deletions of series that it does
// not know: those that were made while it was no member, or all, if its file of
// them is damaged. What it has from before must not come back, and what it takes
// from now on must not be taken for older than they are. Nothing is served before.
func (a *App) learnDeletions(ctx context.Context) error {
	active, _, err := a.tenants(ctx)
	if err == nil {
		err = a.ingester.LearnDeletions(ctx, active)
	}
	if err != nil {
		return fmt.Errorf("learn of deleted series: %w", err)
	}
	return nil
}

func (a *App) buildDistributor() *distributor.Distributor {
	ha := a.buildHA(electionredis.New(a.redis, a.signer, electionredis.Options{Logger: a.opts.Logger, Registerer: a.registry}))
	dist := distributor.New(distributor.Options{
		HA:   ha,
		Ring: a.members, Replication: a.cfg.Cluster.Replication, ShardSize: a.shardSize,
		Replica: func(in *ring.Instance) (distributor.Replica, error) { return a.pool.Peer(in.Addr) },
		Limits:  a.limitsOf, Memory: a.memory, Now: a.opts.Now, Registerer: a.registry,
	})
	a.onClose("distributor", dist.Close)
	a.push = dist.Push
	return dist
}

// buildHA builds what hears one of several replicas of a sender, and runs it
// until the process ends.
func (a *App) buildHA(store election.Store) *distributor.HA {
	ha := distributor.NewHA(distributor.HAOptions{Store: store, Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { ha.Run(ctx) })
	a.closeWorker("elections of replicas", cancel, &done)
	return ha
}

// buildAPI builds the querier and what gateways ask.
func (a *App) buildAPI(dist *distributor.Distributor) {
	majority := a.cfg.Cluster.Replication/2 + 1
	recent := querier.NewIngesters(querier.IngestersOptions{Peers: a.toQuery, Tolerate: majority - 1, Lost: a.recovery.LostDomains})
	o := a.apiOptions(recent)
	if a.opts.Targets[TargetDistributor] {
		o.Push = dist.Push
	}
	if !a.opts.Targets[TargetQuerier] {
		o.Queryable = nil
	}
	a.deleteRecent = func(ctx context.Context, id tenant.ID, ts schema.Tombstone) error {
		return a.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error { return p.Delete(ctx, id, ts) })
	}
	a.backend = api.New(o)
}

// internal is the handler of internal_listen, for gateways that prove to belong
// to the cluster: the API, where they say whom they let in, and the operator's
// commands, whose credential they checked and which they audit.
func (a *App) internal() http.Handler {
	commands := admin.Passed(operatorRoot, a.commandRoutes, a.opts.Logger)
	r := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, operatorRoot+"/"):
			commands.ServeHTTP(w, r)
		case a.backend == nil:
			http.NotFound(w, r)
		default:
			access, err := tenant.AccessFromHeaders(r.Header)
			if err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
			a.backend.ServeHTTP(w, r.WithContext(tenant.NewContext(r.Context(), access)))
		}
	})
	return r
}

// localIngester is this process's ingester as the querier wants it.
type localIngester struct{ ing *ingester.Ingester }

func (l localIngester) Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error) {
	return l.ing.SelectServed(ctx, req)
}

func (l localIngester) Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error) {
	if name == "" {
		return l.ing.LabelNamesServed(ctx, req)
	}
	return l.ing.LabelValuesServed(ctx, name, req)
}

func (l localIngester) Metadata(_ context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	return l.ing.Metadata(id), nil
}

func (l localIngester) SeriesCount(_ context.Context, id tenant.ID) (int, error) {
	return l.ing.SeriesCount(id), nil
}

func (l localIngester) Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return l.ing.Exemplars(ctx, id, mint, maxt, sets)
}
