package querier

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// start is aligned to a window.
const start = int64(1_699_999_200_000)

// fakeSource has series of several tenants and records its calls.
type fakeSource struct {
	data map[tenant.ID][]series.WithChunks
	err  error
	wait func(context.Context) // called before Select returns; may be nil

	mu       sync.Mutex
	requests []series.Request
	held     int // selections that were not released
	exStart  int64
}

func (f *fakeSource) note(req series.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, req)
}

func (f *fakeSource) last() series.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[len(f.requests)-1]
}

func (f *fakeSource) holding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *fakeSource) matching(req series.Request) []series.WithChunks {
	var out []series.WithChunks
next:
	for _, s := range f.data[req.Tenant] {
		for _, m := range req.Matchers {
			if !m.Matches(s.Labels.Get(m.Name)) {
				continue next
			}
		}
		var chunks []series.Chunk
		for _, c := range s.Chunks {
			if c.Overlaps(req.MinTime, req.MaxTime) {
				chunks = append(chunks, c)
			}
		}
		if len(chunks) > 0 {
			out = append(out, series.WithChunks{Labels: s.Labels, Chunks: chunks})
		}
	}
	return out
}

func (f *fakeSource) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	f.note(req)
	if f.wait != nil {
		f.wait(ctx)
	}
	if f.err != nil {
		return nil, f.err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("select: %w", err)
	}
	sel := &series.Selection{Series: f.matching(req)}
	if req.MaxSeries > 0 && len(sel.Series) > req.MaxSeries {
		return nil, fmt.Errorf("ingester: %w", limits.MaxQuerySeries.ExceededAt(int64(req.MaxSeries), limits.More))
	}
	f.mu.Lock()
	f.held++
	f.mu.Unlock()
	sel.Hold(func() {
		f.mu.Lock()
		f.held--
		f.mu.Unlock()
	})
	return sel, nil
}

func (f *fakeSource) LabelNames(_ context.Context, req series.Request) ([]string, error) {
	f.note(req)
	names := map[string]bool{}
	for _, s := range f.matching(req) {
		s.Labels.Range(func(l labels.Label) { names[l.Name] = true })
	}
	return keys(names), f.err
}

func (f *fakeSource) LabelValues(_ context.Context, name string, req series.Request) ([]string, error) {
	f.note(req)
	values := map[string]bool{}
	for _, s := range f.matching(req) {
		values[s.Labels.Get(name)] = true
	}
	return keys(values), f.err
}

func keys(set map[string]bool) []string {
	var out []string
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (f *fakeSource) Exemplars(_ context.Context, id tenant.ID, mint, _ int64, _ [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	f.exStart = mint
	return []exemplar.QueryResult{{SeriesLabels: labels.FromStrings("tenant", string(id))}}, nil
}

// oneADay returns n series with a sample every 15 seconds for a day from start.
func oneADay(t testing.TB, name string, n int) []series.WithChunks {
	t.Helper()
	var samples []series.Sample
	for ts := start; ts < start+series.DayMillis; ts += 15_000 {
		samples = append(samples, series.Sample{T: ts, V: float64(ts % 1000)})
	}
	chunks, err := series.Encode(samples)
	if err != nil {
		t.Fatal(err)
	}
	var out []series.WithChunks
	for i := range n {
		out = append(out, series.WithChunks{Labels: labels.FromStrings("__name__", name, "i", fmt.Sprint(i)), Chunks: chunks})
	}
	return out
}

// bed is an engine and a queryable of a fakeSource.
type bed struct {
	source *fakeSource
	lim    limits.Limits
	now    time.Time
	reg    *prometheus.Registry
	log    bytes.Buffer
	engine *Engine
	q      *Queryable
}

func newBed(t testing.TB) *bed {
	b := &bed{now: time.UnixMilli(start + series.DayMillis), reg: prometheus.NewRegistry()}
	b.source = &fakeSource{data: map[tenant.ID][]series.WithChunks{"a": oneADay(t, "up", 3), "b": oneADay(t, "secret", 1)}}
	b.engine = NewEngine(switches.Only(parser.NewParser(parser.Options{})), nil, b.reg)
	b.q = NewQueryable(b.source, func() time.Time { return b.now }, slog.New(slog.NewTextHandler(&b.log, nil)))
	return b
}

// as returns the context of a request of the tenant, with the current limits.
func (b *bed) as(id tenant.ID) context.Context {
	lim := b.lim
	return WithLimits(tenant.NewContext(context.Background(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}), &lim)
}

func (b *bed) instant(ctx context.Context, t testing.TB, text string) *promql.Result {
	t.Helper()
	q, err := b.engine.NewInstantQuery(ctx, b.q, nil, text, b.now)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer q.Close()
	return q.Exec(ctx)
}

func (b *bed) ranged(t testing.TB, text string, span, step time.Duration) *promql.Result {
	t.Helper()
	q, err := b.engine.NewRangeQuery(b.as("a"), b.q, nil, text, b.now.Add(-span), b.now, step)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer q.Close()
	return q.Exec(b.as("a"))
}
