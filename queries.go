package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/home"
	"github.com/palliumhq/pallium/backend/frontend/join"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/runner"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/frontend/worker"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/backend/wire"
)

// queries has the parts of a process that answer PromQL. A query passes up to five layers, depending
// on the roles and settings of the process: the engine that sends it to its tenant's home, the engine
// that joins equal queries, the frontend that divides it and caches results, the dispatcher that
// waits for a slot, and the engine that evaluates it.
type queries struct {
	queryable  *querier.Queryable
	top        promql.QueryEngine // the layers
	engine     *querier.Engine
	dispatcher *dispatch.Dispatcher // nil without the role query-frontend
	server     *home.Server         // serves queries of other backends; nil unless this is a query frontend of a cluster
	worker     *worker.Worker       // nil unless this is a querier of a cluster
}

// maxTenantShare is the share of all slots that one tenant may hold, so that slots are free for
// queries of other tenants.
const maxTenantShare = 0.75

// tenantAlone is the time without an evaluation of another tenant after which a tenant may hold
// more than maxTenantShare. Dashboards are refreshed more often than this.
const tenantAlone = 5 * time.Minute

// buildQuerier builds the querier role: in a cluster, its slots are lent to the query
// frontends of the ring.
func (b *backend) buildQuerier(context.Context) error {
	if err := b.buildQueries(); err != nil || b.cluster == nil {
		return err
	}
	r := runner.New(runner.Options{Engine: b.queries.engine, Parts: b.queries.engine, Queryable: b.queries.queryable, Memory: b.memory,
		Cost: b.queries.engine.Cost, Readers: b.queries.engine.Readers, Switches: b.switches(), Now: b.opts.Now})
	b.queries.worker = worker.New(worker.Options{Frontends: b.cluster.lenders(b), Run: r.Run, Slots: b.slots(),
		Logger: b.opts.Logger, Registerer: b.registry})
	return nil
}

// buildQueryFrontend builds the query-frontend role.
func (b *backend) buildQueryFrontend(context.Context) error { return b.buildQueries() }

// buildQueries builds the parts that answer queries, unless another role has built them.
func (b *backend) buildQueries() error {
	if b.queries != nil {
		return nil
	}
	parsers := querier.NewParsers(querier.MaxOperators)
	b.queries = &queries{queryable: querier.NewQueryable(querier.Both(b.recent, b.longTerm), b.opts.Now, b.opts.Logger),
		engine: querier.NewEngine(parsers, b.opts.Logger, b.registry)}
	var err error
	if b.queries.top, err = b.buildEngines(parsers); err != nil {
		return err
	}
	if b.has(TargetQuerier) || b.has(TargetFrontend) {
		b.serveQueries()
	}
	return nil
}

// serveQueries adds the parts that answer queries to the API.
func (b *backend) serveQueries() {
	b.api.Queryable, b.api.Engine = b.queries.queryable, b.queries.top
	b.api.Parsers = querier.NewParsers(querier.MaxPrettyOperators)
	b.api.Features = b.queries.engine.Features
	b.api.Delete = func(ctx context.Context, d api.Deletion) error {
		return b.keeper.DeleteSeries(ctx, lifecycle.Deletion(d), b.deleteRecent)
	}
	b.api.Metadata = func(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
		return querier.Metadata(ctx, b.recent, b.longTerm, id, b.opts.Now())
	}
}

// buildEngines returns the engine of the API: the layers of queries.
func (b *backend) buildEngines(parsers switches.Parsers) (promql.QueryEngine, error) {
	q := b.queries
	var evaluator frontend.Evaluator = q.engine
	parts := runtime.GOMAXPROCS(0)
	if b.has(TargetFrontend) {
		q.dispatcher = b.buildDispatcher()
		evaluator = q.dispatcher
		if b.cluster != nil {
			parts = partsInCluster
		}
	}
	top, err := b.buildFrontend(evaluator, parsers, parts)
	if err != nil {
		return nil, err
	}
	if b.has(TargetFrontend) {
		top = join.New(join.Options{Engine: top, Request: q.engine.Request, Uncached: frontend.Uncached, Faults: querier.NoteFaults,
			Unreadable: q.engine.Unreadable, Interrupted: q.engine.Interrupted, Timer: time.After, Registerer: b.registry})
	}
	if b.cluster == nil {
		b.api.Hold = q.dispatcher.Hold
		return top, nil
	}
	if b.has(TargetFrontend) {
		r := runner.New(runner.Options{Engine: top, Queryable: q.queryable, Memory: b.memory, Gate: b.api.Gate, Switches: b.switches(),
			Now: b.opts.Now})
		q.server = home.NewServer(r.Run)
	}
	passing := home.New(home.Options{Here: top, Hold: b.holdHere(), Frontends: b.cluster.homes, Request: q.engine.Request,
		Uncached:  frontend.Uncached,
		Elsewhere: func(err error) bool { return errors.Is(err, wire.ErrUnavailable) || errors.Is(err, wire.ErrRejected) },
		Failed:    q.engine.Failed, Canceled: q.engine.Interrupted,
		Unreadable: q.engine.Unreadable, Logger: b.opts.Logger, Registerer: b.registry})
	b.api.Hold = passing.Hold
	return passing, nil
}

// holdHere returns the function that holds slots of this process's frontend for reads; nil if it
// has no frontend.
func (b *backend) holdHere() func(context.Context, tenant.ID, bool) (func(), error) {
	if b.queries.dispatcher == nil {
		return nil
	}
	return b.queries.dispatcher.Hold
}

// partsInCluster is the maximum number of parts of one query that a query frontend of a cluster
// evaluates or queues concurrently, and the default of frontend.max_shards there.
const partsInCluster = 16

// buildDispatcher returns a dispatcher. In a single process it has slots of its own; in a cluster, queriers
// lend it slots.
func (b *backend) buildDispatcher() *dispatch.Dispatcher {
	waiting := queue.New(queue.Options{MaxShare: maxTenantShare, Alone: tenantAlone, Now: b.opts.Now, Registerer: b.registry})
	d := dispatch.New(dispatch.Options{Engine: b.queries.engine, Queue: waiting, Switches: b.switches(), Timer: time.After,
		Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry})
	if b.cluster == nil {
		for range b.slots() {
			b.start("query slots", d.ServeHere)
		}
	}
	return d
}

// slots returns the maximum number of concurrent evaluations: the configured number, or the number of
// CPUs plus one, at least three. maxTenantShare keeps the long queries of one tenant from holding all
// slots.
func (b *backend) slots() int {
	if n := b.cfg.Querier.Concurrency; n > 0 {
		return n
	}
	return max(3, runtime.GOMAXPROCS(0)+1)
}

// switches returns the versions of Pallium and of PromQL's engine, on which answers depend:
// processes of two versions may share a cache while a cluster is upgraded.
func (b *backend) switches() string {
	return fmt.Sprintf("pallium=%s promql=%s", versionText(), promqlVersion())
}

// buildFrontend returns an engine of queries that uses the evaluator: a frontend, or only the
// evaluator if the frontend is disabled.
func (b *backend) buildFrontend(evaluator frontend.Evaluator, parsers switches.Parsers, parts int) (promql.QueryEngine, error) {
	if !b.cfg.Frontend.Enabled {
		return evaluator, nil
	}
	o := frontend.Options{
		Evaluator: evaluator, Parsers: parsers, Syntax: querier.Switches,
		Engine: split.Options{Lookback: querier.LookbackDelta, SubqueryStep: querier.SubqueryStep},
		Versions: func(ctx context.Context, id tenant.ID, mint, maxt int64) (series.Versions, error) {
			return querier.Versions(ctx, b.recent, b.longTerm, id, mint, maxt)
		},
		Settle: ingester.RecentDelay, Switches: b.switches(), Workers: parts,
		MaxShards: b.cfg.Frontend.MaxShards, ShardPoints: b.cfg.Frontend.ShardPoints,
		Now: b.opts.Now, Logger: b.opts.Logger, Registerer: b.registry,
	}
	if o.MaxShards == 0 {
		o.MaxShards = parts
	}
	if b.cfg.Frontend.Cache && (b.has(TargetQuerier) || b.has(TargetFrontend)) { // a ruler has only instant queries and backfills
		var err error
		if o.Cache, err = b.resultsCache(); err != nil {
			return nil, err
		}
	}
	return frontend.New(o), nil
}

// frontends returns the query frontends of the ring that have an address.
func (m *membership) frontends(ctx context.Context) ([]ring.Instance, error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	var out []ring.Instance
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if in.Addr != "" && slices.Contains(in.Roles, string(TargetFrontend)) {
			out = append(out, in)
		}
	}
	return out, nil
}

// homes returns the query frontends of the ring to which queries can be sent.
func (m *membership) homes(ctx context.Context) ([]home.Frontend, error) {
	list, err := m.frontends(ctx)
	var out []home.Frontend
	for _, in := range list {
		f := home.Frontend{ID: in.ID, Self: in.ID == m.members.Self().ID, Unhealthy: in.Unhealthy}
		f.Query = func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error) {
			p, err := m.pool.Peer(in.Addr)
			if err != nil {
				return nil, err
			}
			return p.Query(ctx, r)
		}
		f.Hold = func(ctx context.Context, id tenant.ID, instant bool) (func(), error) {
			p, err := m.pool.Peer(in.Addr)
			if err != nil {
				return nil, err
			}
			return p.Hold(ctx, id, instant)
		}
		out = append(out, f)
	}
	return out, err
}

// lenders returns a function that returns the query frontends of the ring, to which slots of this
// process are lent. Evaluations are canceled with the requests of the process.
func (m *membership) lenders(b *backend) func(context.Context) ([]worker.Frontend, error) {
	return func(ctx context.Context) ([]worker.Frontend, error) {
		list, err := m.frontends(ctx)
		var out []worker.Frontend
		for _, in := range list {
			out = append(out, worker.Frontend{ID: in.ID, Unhealthy: in.Unhealthy, Open: func(context.Context) (worker.Stream, error) {
				p, err := m.pool.Peer(in.Addr)
				if err != nil {
					return nil, err
				}
				return p.Work(b.requests.Context(), m.members.Self().ID)
			}})
		}
		return out, err
	}
}

// lendSlots lends the slots of a querier of a cluster until ctx is done.
func (b *backend) lendSlots(ctx context.Context) {
	if b.cluster != nil && b.cluster.members.Wait(ctx) == nil {
		b.queries.worker.Run(ctx)
	}
}

// drainQueries waits for the queries of other processes that this frontend answers and for the
// evaluations of this querier. Then it returns the slots that queriers lent to this frontend.
func (b *backend) drainQueries(ctx context.Context) {
	if b.queries == nil {
		return
	}
	if b.queries.server != nil {
		b.queries.server.Drain(ctx)
	}
	if b.queries.worker != nil {
		b.queries.worker.Wait(ctx)
	}
	if b.queries.dispatcher != nil && b.cluster != nil {
		b.queries.dispatcher.Drain()
	}
}

// frontendCalls are the calls of other processes to a query frontend; it implements
// rpc.Frontend.
type frontendCalls struct {
	*home.Server
	*dispatch.Dispatcher
}
