package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache/memory"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects/dir"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/load/counted"
)

const (
	rowDelay    = 5 * time.Millisecond
	objectDelay = 30 * time.Millisecond
)

// remote is the long-term store of a data directory with an engine and a frontend that answer
// queries from it. Calls of the row store and the object store are as slow as in a cloud.
type remote struct {
	dir     string
	rows    rows.Store
	objects *dir.Store
	count   *counted.Counter
	store   *store.Store
	engine  *querier.Engine
	front   *frontend.Frontend
}

// Select implements querier.Source.
func (r *remote) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	return r.store.Select(ctx, req, nil)
}

// LabelNames implements querier.Source.
func (r *remote) LabelNames(ctx context.Context, req series.Request) ([]string, error) {
	return r.store.LabelNames(ctx, req, nil)
}

// LabelValues implements querier.Source.
func (r *remote) LabelValues(ctx context.Context, name string, req series.Request) ([]string, error) {
	return r.store.LabelValues(ctx, name, req, nil)
}

// Exemplars implements querier.Source. The store has none.
func (r *remote) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, nil
}

// trips counts the calls of both stores for each query over the longest range: without the
// frontend and with it, both with nothing cached, and once more with what is cached then.
func trips(ctx context.Context, data string, end time.Time, span time.Duration) (err error) {
	r := &remote{dir: data, count: &counted.Counter{}}
	if r.rows, err = pebble.Open(filepath.Join(data, "rows"), pebble.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	if r.objects, err = dir.Open(data, "l0", "l1"); err != nil {
		return errors.Join(err, r.rows.Close())
	}
	defer func() { err = errors.Join(err, r.store.Close(), r.rows.Close(), r.objects.Close()) }()
	r.count.Delay(rowDelay, objectDelay)
	fmt.Printf("\nround trips of cold queries over %s: %s per row call, %s per object call; without the frontend, with it, and repeated\n",
		short(span), rowDelay, objectDelay)
	fmt.Println("plain:  rounds rows gets  KiB rows  KiB objects  wall ms | first: the same | again: the same | query")
	for _, p := range panels(span) {
		line := ""
		for k := range 3 {
			if k < 2 { // nothing is cached
				if err := r.reopen(); err != nil {
					return err
				}
			}
			engine := promql.QueryEngine(r.front)
			if k == 0 {
				engine = r.engine
			}
			r.count.Take()
			wall, err := r.ask(ctx, engine, p.at(end))
			if err != nil {
				return fmt.Errorf("%s: %w", p.text, err)
			}
			c := r.count.Take()
			line += fmt.Sprintf("%2d %3d %4d %8.1f %8.1f %7.1f | ", c.Rounds, c.RowCalls, c.Gets, float64(c.RowBytes)/1024,
				float64(c.GotBytes)/1024, ms(wall))
		}
		fmt.Println(line + p.text)
	}
	return nil
}

// reopen opens the store with empty caches.
func (r *remote) reopen() (err error) {
	if r.store != nil {
		if err := r.store.Close(); err != nil {
			return err
		}
	}
	ix, err := index.New(index.Options{Rows: counted.Rows{Store: r.rows, Counter: r.count}, Now: time.Now})
	if err != nil {
		return err
	}
	scratch := filepath.Join(r.dir, "scratch-trips")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	r.store, err = store.Open(store.Options{
		Index: ix, Objects: counted.Objects{Store: r.objects, Counter: r.count}, Scratch: scratch,
		Retention: func(context.Context, tenant.ID) (time.Duration, error) { return 0, nil },
		Deleted:   func(context.Context, tenant.ID) (bool, error) { return false, nil },
		Now:       time.Now,
	})
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	text := querier.NewParsers(querier.MaxOperators)
	r.engine = querier.NewEngine(text, slog.New(slog.DiscardHandler), reg)
	r.front = frontend.New(frontend.Options{
		Evaluator: r.engine, Parsers: text, Engine: split.Options{Lookback: querier.LookbackDelta, SubqueryStep: querier.SubqueryStep},
		Versions: r.versions, Cache: memory.New(64<<20, reg), Workers: 16, Now: time.Now, Registerer: reg,
	})
	return nil
}

// versions returns the versions of the store and of an ingester that has no samples.
func (r *remote) versions(ctx context.Context, id tenant.ID, mint, maxt int64) (series.Versions, error) {
	v, err := r.store.Version(ctx, id, mint, maxt)
	none := series.IngesterVersion{Instance: "ingester-1", Epoch: 1, Bound: math.MaxInt64, RecentBound: math.MaxInt64, Domain: "zone-a"}
	return series.Versions{Store: v, Ingesters: []series.IngesterVersion{none}, Domains: map[string]int{none.Domain: 1}, Needed: 1}, err
}

func (r *remote) ask(ctx context.Context, engine promql.QueryEngine, q rangeQuery) (time.Duration, error) {
	lim := limits.Default()
	lim.MaxQuerySamples = 0
	ctx = querier.WithLimits(tenant.NewContext(ctx, tenant.Access{Tenant: "load", Policy: tenant.Unrestricted()}), &lim)
	began := time.Now()
	query, err := engine.NewRangeQuery(ctx, querier.NewQueryable(r, time.Now, nil), nil, q.text, q.start, q.end, q.step)
	if err != nil {
		return 0, err
	}
	defer query.Close()
	if res := query.Exec(ctx); res.Err != nil {
		return 0, res.Err
	}
	return time.Since(began), nil
}
