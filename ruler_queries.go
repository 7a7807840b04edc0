package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/runner"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ruler/backfill"
)

// ruleQueries evaluates the queries of rules as queries of their tenant, in the class of rules.
type ruleQueries struct {
	b      *backend
	runner *runner.Runner
}

func newRuleQueries(b *backend) *ruleQueries {
	return &ruleQueries{b: b, runner: runner.New(runner.Options{Engine: b.queries.top, Queryable: b.queries.queryable, Memory: b.memory,
		Switches: b.switches(), Now: b.opts.Now})}
}

// run evaluates a query. The value is valid until release.
func (q *ruleQueries) run(ctx context.Context, id tenant.ID, expr string, times split.Times) (parser.Value, func(), error) {
	lim := q.b.limitsOf(id)
	a, release := q.runner.Run(ctx, &evaluation.Request{
		Access: tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}, Limits: lim, Text: expr, Times: times, Class: queue.Rule,
		Timeout: time.Duration(lim.QueryTimeout),
	})
	var busy *querier.QueueFullError
	switch err := a.Err; {
	case err == nil:
		return a.Value, release, nil
	case a.Fault != nil:
		release()
		return nil, nil, fmt.Errorf("read the data: %w", a.Fault)
	case ctx.Err() != nil || errors.Is(err, memory.ErrFull) || errors.As(err, &busy):
		release()
		return nil, nil, err
	default:
		release()
		return nil, nil, tenantError{err}
	}
}

// instant evaluates an instant query.
func (q *ruleQueries) instant(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
	value, release, err := q.run(ctx, id, expr, split.Times{Start: at, End: at})
	if err != nil {
		return nil, err
	}
	defer release()
	switch v := value.(type) {
	case promql.Vector:
		out := make(promql.Vector, len(v))
		for i, s := range v {
			if out[i] = s; s.H != nil {
				out[i].H = s.H.Copy()
			}
		}
		return out, nil
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V, Metric: labels.EmptyLabels()}}, nil
	}
	return nil, tenantError{errors.New("the expression of a rule must return an instant vector or a scalar")}
}

// ranges evaluates a range query, or an instant query if start and end are equal.
func (q *ruleQueries) ranges(
	ctx context.Context, id tenant.ID, expr string, start, end time.Time, step time.Duration,
) (promql.Matrix, error) {
	if start.Equal(end) {
		v, err := q.instant(ctx, id, expr, start)
		return backfill.MatrixOf(v), err
	}
	value, release, err := q.run(ctx, id, expr, split.Times{Start: start, End: end, Step: step})
	if err != nil {
		return nil, err
	}
	defer release()
	m, ok := value.(promql.Matrix)
	if !ok {
		return nil, tenantError{errors.New("the expression of a rule must return an instant vector or a scalar")}
	}
	out := make(promql.Matrix, len(m))
	for i := range m {
		out[i] = promql.Series{Metric: m[i].Metric, Floats: append([]promql.FPoint(nil), m[i].Floats...)}
		for _, p := range m[i].Histograms {
			out[i].Histograms = append(out[i].Histograms, promql.HPoint{T: p.T, H: p.H.Copy()})
		}
	}
	return out, nil
}

// queryable returns the series of a tenant.
func (q *ruleQueries) queryable(id tenant.ID) storage.Queryable { return tenantSeries{q.b, id} }

// tenantSeries is the storage of one tenant. It sets up each read in the same way as the API sets up a request.
type tenantSeries struct {
	b  *backend
	id tenant.ID
}

// Querier implements storage.Queryable.
func (s tenantSeries) Querier(mint, maxt int64) (storage.Querier, error) {
	inner, err := s.b.queries.queryable.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	lim := s.b.limitsOf(s.id)
	h := s.b.memory.Begin(memory.Request{Tenant: s.id, Limit: lim.MaxMemoryBytes})
	return &tenantQuerier{Querier: inner, memory: h, prepare: func(ctx context.Context) context.Context {
		ctx = tenant.NewContext(ctx, tenant.Access{Tenant: s.id, Policy: tenant.Unrestricted()})
		return querier.WithLimits(memory.NewContext(ctx, h), &lim)
	}}, nil
}

// tenantQuerier reads the series of one tenant.
type tenantQuerier struct {
	storage.Querier
	memory  *memory.Holding
	prepare func(context.Context) context.Context
}

// Select implements storage.Querier.
func (q *tenantQuerier) Select(
	ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher,
) storage.SeriesSet {
	return q.Querier.Select(q.prepare(ctx), sorted, hints, matchers...)
}

// Close implements storage.Querier.
func (q *tenantQuerier) Close() error {
	q.memory.Close()
	return q.Querier.Close()
}
