package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

const testDay = 20_000

// testNow is the clock of the tests: half a day after the end of testDay.
func testNow() time.Time { return time.UnixMilli(testDay*series.DayMillis + 36*3600_000) }

// memRows returns an empty row store.
func memRows(t *testing.T) rows.Store {
	t.Helper()
	r, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// copyRows returns a row store with a copy of the rows of another one.
func copyRows(t *testing.T, from rows.Store) rows.Store {
	t.Helper()
	to := memRows(t)
	var ms []rows.RowMutation
	err := from.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		m := rows.RowMutation{Key: r.Key}
		for _, c := range r.Cells {
			m.Mutations = append(m.Mutations, rows.Set(c.Family, c.Qualifier, c.Time, c.Value))
		}
		ms = append(ms, m)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range ms {
		if err := to.Mutate(t.Context(), ms[i]); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// openStore opens a store with the given clock.
func openStore(t *testing.T, r rows.Store, o objects.Store, now func() time.Time) *store.Store {
	t.Helper()
	ix, err := index.New(index.Options{Rows: r, Now: now, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(store.Options{Index: ix, Objects: o, Scratch: t.TempDir(), PackBytes: 6000, Now: now, Registerer: prometheus.NewRegistry(),
		Retention: func(context.Context, tenant.ID) (time.Duration, error) { return 0, nil },
		Deleted:   func(context.Context, tenant.ID) (bool, error) { return false, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// daySeries returns the series of a day: a metric that continues over several packs, with
// several pages in each, and small metrics before and after it. Each series has the given
// number of samples.
func daySeries(large, samples int) (list []labels.Labels, data *column.Series) {
	add := func(metric string, n int) {
		for i := range n {
			list = append(list, labels.FromStrings("__name__", metric, "pod", fmt.Sprintf("pod-%05d", i), "of_"+metric, "yes"))
		}
	}
	for _, m := range []string{"a1", "a2", "a3"} {
		add(m, 2)
	}
	add("big", large)
	for _, m := range []string{"m1", "m2", "m3"} {
		add(m, 3)
	}
	data = &column.Series{}
	for i := range samples {
		data.T, data.V = append(data.T, testDay*series.DayMillis+int64(i)*15_000), append(data.V, float64(i))
	}
	return list, data
}

// publish writes a generation of testDay and publishes it.
func publish(t *testing.T, s *store.Store, samples int) {
	t.Helper()
	publishSized(t, s, 2500, samples)
}

// publishSized is publish with a given number of series of the large metric.
func publishSized(t *testing.T, s *store.Store, large, samples int) {
	t.Helper()
	c, err := s.Catalog(t.Context(), "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	var md []series.MetricMetadata
	for _, m := range []string{"a1", "big", "m2"} {
		md = append(md, series.MetricMetadata{Metric: m, Metadata: metadata.Metadata{Help: "help of " + m}})
	}
	g, err := s.NewGeneration(t.Context(), c, 0, md)
	if err != nil {
		t.Fatal(err)
	}
	list, data := daySeries(large, samples)
	for _, ls := range list {
		if err := g.Add(t.Context(), ls, data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// question is a read of the store that returns its result as text.
type question struct {
	name     string
	parallel bool // reads catalogs and other rows concurrently
	ask      func(*testing.T, *store.Store) (string, error)
}

func matchers(pairs ...string) (out []*labels.Matcher) {
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=~")
		typ := labels.MatchRegexp
		if !ok {
			name, value, _ = strings.Cut(p, "=")
			typ = labels.MatchEqual
		}
		out = append(out, labels.MustNewMatcher(typ, name, value))
	}
	return out
}

// questions returns reads that use the index in all ways.
func questions() []question {
	request := func(ms ...string) series.Request {
		return series.Request{Tenant: "a", MinTime: testDay * series.DayMillis, MaxTime: (testDay+1)*series.DayMillis - 1, Matchers: matchers(ms...)}
	}
	sel := func(ms ...string) func(*testing.T, *store.Store) (string, error) {
		return func(t *testing.T, s *store.Store) (string, error) {
			got, err := s.Select(t.Context(), request(ms...), nil)
			if err != nil {
				return "", err
			}
			defer got.Release()
			samples := 0
			for i := range got.Series {
				for _, c := range got.Series[i].Chunks {
					samples += c.Samples
				}
			}
			return fmt.Sprintf("%d series, %d samples", len(got.Series), samples), nil
		}
	}
	list := func(got []string, err error) (string, error) {
		return fmt.Sprintf("%d: %.200s", len(got), strings.Join(got, " ")), err
	}
	names := func(ms ...string) func(*testing.T, *store.Store) (string, error) {
		return func(t *testing.T, s *store.Store) (string, error) {
			return list(s.LabelNames(t.Context(), request(ms...), nil))
		}
	}
	values := func(label string, ms ...string) func(*testing.T, *store.Store) (string, error) {
		return func(t *testing.T, s *store.Store) (string, error) {
			return list(s.LabelValues(t.Context(), label, request(ms...), nil))
		}
	}
	return []question{
		{"first metric", true, sel("__name__=a1")},
		{"metric inside a pack", true, sel("__name__=a2")},
		{"metric of many pages", true, sel("__name__=big")},
		{"few pages of many", true, sel("__name__=big", "pod=pod-00042")},
		{"list of names", true, sel("__name__=~a2|big|m2|none")},
		{"without a name", true, sel("pod=~.+")},
		{"part of a name", true, sel("__name__=~m.*")},
		{"label names", false, names()},
		{"label names of series", true, names("__name__=m2")},
		{"label names without a name", true, names("pod=pod-00001")},
		{"label values", false, values("pod")},
		{"metric names", false, values("__name__")},
		{"label values of series", true, values("pod", "__name__=a2")},
		{"label values without a name", true, values("of_m2", "pod=pod-00001")},
		{"metadata", false, func(t *testing.T, s *store.Store) (string, error) {
			md, err := s.Metadata(t.Context(), "a", testDay, testDay)
			return fmt.Sprint(md), err
		}},
	}
}
