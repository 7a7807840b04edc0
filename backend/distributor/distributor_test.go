package distributor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// fakeIngester records the series that it gets as text, without keeping references to
// the batch.
type fakeIngester struct {
	reject int // number of samples that it rejects as beyond its limit
	err    error

	mu        sync.Mutex
	tenants   []tenant.ID
	series    []string
	metadata  []series.MetricMetadata
	exemplars int
}

func (f *fakeIngester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return series.Outcome{}, f.err
	}
	var out series.Outcome
	f.tenants = append(f.tenants, b.Tenant)
	for i := range b.Entries {
		e := &b.Entries[i]
		f.series = append(f.series, e.Labels.String())
		f.exemplars += len(e.Exemplars)
		out.Exemplars += len(e.Exemplars)
		for j := range e.Samples {
			if e.Samples[j].IsHistogram() {
				out.Histograms++
			} else {
				out.Samples++
			}
		}
	}
	for _, m := range b.Metadata {
		m.Metric, m.Help = strings.Clone(m.Metric), strings.Clone(m.Help)
		f.metadata = append(f.metadata, m)
	}
	if f.reject > 0 {
		out.Samples -= f.reject
		out.RejectEntry(0, "max_active_series", "limit max_active_series of 1 reached", f.reject, nil)
	}
	return out, nil
}

func (f *fakeIngester) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.series)
}

// Ingester is implemented by the tests' ingesters, which are local or replicas.
type Ingester = Local

func lookup(ings map[string]Ingester) func(*ring.Instance) (Replica, error) {
	return func(in *ring.Instance) (Replica, error) {
		ing := ings[in.ID]
		if ing == nil {
			return nil, fmt.Errorf("no ingester %s", in.ID)
		}
		return asReplica{ing}, nil
	}
}

// asReplica decodes pushes like the server of a replica.
type asReplica struct{ ing Ingester }

func (r asReplica) Push(ctx context.Context, p *wire.Push) (wire.PushResponse, error) {
	var req remotewrite.Request
	var resp wire.PushResponse
	if err := req.Unmarshal(remotewrite.V1, p.Write, nil); err != nil {
		return resp, err
	}
	req.Batch.Tenant, req.Batch.Established = tenant.ID(p.Tenant), p.Established
	out, err := r.ing.Push(ctx, &req.Batch)
	resp.Exemplars = int64(out.Exemplars)
	for _, entry := range out.Created {
		resp.Created = append(resp.Created, uint32(entry))
	}
	for _, r := range out.Repeats {
		resp.Repeats = append(resp.Repeats, wire.Repeats{Entry: int64(r.Entry), Same: int64(r.Same), Different: int64(r.Different)})
	}
	for _, e := range out.Entries {
		resp.Rejections = append(resp.Rejections, wire.Rejection{Entry: int64(e.Entry), Places: e.Places, Reason: e.Reason, Message: e.Message})
	}
	return resp, err
}

func manySeries(n int) []series.Entry {
	var out []series.Entry
	for i := range n {
		out = append(out, entryOf(rawLabels("__name__", "up", "i", fmt.Sprint(i)), at(nowMillis)))
	}
	return out
}

// TestRouting checks that with replication 1 each series always goes to the same ingester,
// and that every ingester gets series.
func TestRouting(t *testing.T) {
	ings := map[string]Ingester{"a": &fakeIngester{}, "b": &fakeIngester{}, "c": &fakeIngester{}}
	d := distribute(ings, limits.Limits{})
	for range 2 {
		out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(300)})
		if err != nil || out.Samples != 300 {
			t.Fatalf("Push = %+v, %v", out, err)
		}
	}
	owner := map[string]string{}
	for id, ing := range ings {
		names := ing.(*fakeIngester).names()
		if len(names) < 2*30 {
			t.Errorf("ingester %s got %d of 600 series", id, len(names))
		}
		for _, n := range names {
			if o, ok := owner[n]; ok && o != id {
				t.Errorf("series %s went to %s and %s", n, o, id)
			}
			owner[n] = id
		}
		for _, got := range ing.(*fakeIngester).tenants {
			if got != "t" {
				t.Errorf("batch of tenant %q", got)
			}
		}
	}
	if len(owner) != 300 {
		t.Errorf("%d series arrived, want 300", len(owner))
	}
}

// TestMetadataToAllIngesters checks that every ingester gets metadata, also from requests
// with metadata only, as Prometheus sends them.
func TestMetadataToAllIngesters(t *testing.T) {
	for name, entries := range map[string][]series.Entry{"alone": nil, "with one series": manySeries(1)} {
		t.Run(name, func(t *testing.T) {
			ings := map[string]Ingester{"a": &fakeIngester{}, "b": &fakeIngester{}, "c": &fakeIngester{}}
			d := distribute(ings, limits.Limits{})
			_, err := d.Push(context.Background(),
				&series.Batch{Tenant: "t", Entries: entries, Metadata: []series.MetricMetadata{{Metric: "up"}}})
			_ = d.Close()
			if err != nil {
				t.Fatal(err)
			}
			for id, ing := range ings {
				if got := ing.(*fakeIngester).metadata; len(got) != 1 {
					t.Errorf("ingester %s has metadata %v", id, got)
				}
			}
		})
	}
}

// TestFailures checks that every uncertain outcome is an error without counts.
func TestFailures(t *testing.T) {
	down := errors.New("down")
	one := func(ing Ingester) func(*ring.Instance) (Replica, error) {
		return lookup(map[string]Ingester{"a": ing})
	}
	tests := []struct {
		name string
		opts Options
		want error
	}{
		{"ingester", Options{Ring: newFixedRing("a"), Replica: one(&fakeIngester{err: down})}, down},
		{"no such ingester", Options{Ring: newFixedRing("b"), Replica: one(&fakeIngester{})}, nil},
		{"empty ring", Options{Ring: newFixedRing(), Replica: one(&fakeIngester{})}, ring.ErrTooFew},
		{"alone", Options{Local: &fakeIngester{err: down}}, down},
		{"replication", Options{Ring: newFixedRing("a"), Replica: one(&fakeIngester{}), Replication: 3}, ring.ErrTooFew},
		{"one of two", Options{Ring: newFixedRing("a", "b"), Replica: lookup(map[string]Ingester{"a": &fakeIngester{}, "b": &fakeIngester{err: down}})}, down},
		{"no ring", Options{Ring: noRing{down}, Replica: one(&fakeIngester{})}, down},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := unlimited(tt.opts).Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(50)})
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if out.Samples != 0 || len(out.Rejections) != 0 {
				t.Errorf("outcome %+v with an error, want none", out)
			}
		})
	}
}

type noRing struct{ err error }

func (n noRing) Ring(context.Context) (*ring.Ring, error) { return nil, n.err }

// TestOutcome checks that rejections of the distributor and of ingesters are added up, in
// the outcome and in metrics.
func TestOutcome(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := limited{New(Options{
		Local: &fakeIngester{reject: 2},
		Now:   func() time.Time { return time.UnixMilli(nowMillis) }, Registerer: reg,
	}), limits.Limits{FutureGrace: limits.Duration(time.Minute)}}
	e := entryOf(rawLabels("__name__", "up"), at(nowMillis), at(nowMillis+1), at(nowMillis+2), at(nowMillis+1e6), at(nowMillis+2e6))
	out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{e, entryOf(rawLabels("a", "b"), at(1), at(2))}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{"": out.Samples}
	for _, r := range out.Rejections {
		got[r.Reason] = r.Samples
	}
	if want := map[string]int{"": 1, "future_grace": 2, "missing_metric_name": 2, "max_active_series": 2}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counts %v, want %v", got, want)
	}
	want := `
# HELP pallium_discarded_samples_total Samples rejected, by reason.
# TYPE pallium_discarded_samples_total counter
pallium_discarded_samples_total{reason="future_grace"} 2
pallium_discarded_samples_total{reason="max_active_series"} 2
pallium_discarded_samples_total{reason="missing_metric_name"} 2
# HELP pallium_distributor_samples_total Samples and exemplars accepted, by type.
# TYPE pallium_distributor_samples_total counter
pallium_distributor_samples_total{type="exemplar"} 0
pallium_distributor_samples_total{type="float"} 1
pallium_distributor_samples_total{type="histogram"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// body returns a remote write request of n series. Every bad-th series has no name.
func body(t testing.TB, n, bad int) []byte {
	t.Helper()
	req := &prompb.WriteRequest{}
	for i := range n {
		name := prompb.Label{Name: "__name__", Value: "up"}
		if bad > 0 && i%bad == 0 {
			name.Name = "nameless"
		}
		ts := prompb.TimeSeries{Labels: []prompb.Label{name, {Name: "zone", Value: fmt.Sprintf("z%04d", i)}}}
		for j := range 1 + i%3 {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: nowMillis + int64(j), Value: float64(i)})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	data, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

// TestBuffersAreReused checks that a decoder returns correct batches after invalid entries
// were removed from an earlier batch, and that no two entries share a buffer.
func TestBuffersAreReused(t *testing.T) {
	var req remotewrite.Request
	for round, bad := range []int{3, 0, 2, 1, 5, 0} {
		n := 50 - 3*round
		if err := req.Decode(remotewrite.V1, body(t, n, bad), 1<<20, (*memory.Holding)(nil)); err != nil {
			t.Fatal(err)
		}
		req.Batch.Tenant = "t"
		check := &checkingIngester{}
		out, err := distribute(map[string]Ingester{"a": check}, limits.Limits{}).Push(context.Background(), &req.Batch)
		if err != nil {
			t.Fatal(err)
		}
		wantSeries, samples := 0, 0
		for i := range n {
			if bad == 0 || i%bad != 0 {
				wantSeries++
				samples += 1 + i%3
			}
		}
		if len(check.seen) != wantSeries || out.Samples != samples {
			t.Errorf("round %d: %d series, %d samples; want %d, %d", round, len(check.seen), out.Samples, wantSeries, samples)
		}
		for _, problem := range check.problems {
			t.Errorf("round %d: %s", round, problem)
		}
	}
}

// checkingIngester checks that each entry of a batch from body has its own samples and
// labels.
type checkingIngester struct {
	seen     map[string]bool
	problems []string
}

func (c *checkingIngester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	c.seen = map[string]bool{}
	var out series.Outcome
	for _, e := range b.Entries {
		var i int
		zone := e.Labels.Get("zone")
		if _, err := fmt.Sscanf(zone, "z%04d", &i); err != nil || e.Labels.Get("__name__") != "up" || e.Hash != e.Labels.Hash() || c.seen[zone] {
			c.problems = append(c.problems, fmt.Sprintf("labels %s, hash %d", e.Labels, e.Hash))
		}
		c.seen[strings.Clone(zone)] = true
		if len(e.Samples) != 1+i%3 {
			c.problems = append(c.problems, fmt.Sprintf("%s has %d samples", zone, len(e.Samples)))
		}
		for j, s := range e.Samples {
			if s.V != float64(i) || s.T != nowMillis+int64(j) {
				c.problems = append(c.problems, fmt.Sprintf("%s has the sample %v", zone, s))
			}
		}
		out.Samples += len(e.Samples)
	}
	return out, nil
}

type nullIngester struct{}

func (nullIngester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	return series.Outcome{Samples: len(b.Entries)}, nil
}

func BenchmarkPush(b *testing.B) {
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("ingesters=%d", members), func(b *testing.B) {
			ings := map[string]Ingester{}
			for i := range members {
				ings[fmt.Sprint(i)] = nullIngester{}
			}
			d := distribute(ings, limits.Default())
			batch := &series.Batch{Tenant: "t", Entries: manySeries(1000)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Push(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "samples/s")
		})
	}
}
