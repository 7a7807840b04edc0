package store_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"context"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	objectscounted "github.com/palliumhq/pallium/backend/objects/counted"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// measured counts the reads of a row store, and the rows and bytes that they
// return.
type measured struct {
	rows.Store
	reads, rows, bytes atomic.Int64
}

func (m *measured) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	m.reads.Add(1)
	return m.Store.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
		m.rows.Add(1)
		for _, c := range r.Cells {
			m.bytes.Add(int64(len(c.Value)))
		}
		return visit(r)
	})
}

func (m *measured) reset() { m.reads.Store(0); m.rows.Store(0); m.bytes.Store(0) }

func (m *measured) String() string {
	return fmt.Sprintf("%d reads, %d rows, %d bytes", m.reads.Load(), m.rows.Load(), m.bytes.Load())
}

// randomSeries returns series of many metrics in one day: labels that only some metrics have,
// that only some series of a metric have, and a series without a metric name.
func randomSeries(random *rand.Rand, day int64) storetest.Data {
	d := storetest.Data{}
	for m := range 40 {
		if random.IntN(5) == 0 {
			continue // not every metric is in every day
		}
		for i := range 1 + random.IntN(12) {
			pairs := []string{fmt.Sprintf("__name__=metric_%02d", m), fmt.Sprintf("instance=host%02d", i), "job=" + string(rune('a'+m%7))}
			if i%3 == 0 {
				pairs = append(pairs, fmt.Sprintf("zone=z%d", random.IntN(4)))
			}
			if m%9 == 0 {
				pairs = append(pairs, fmt.Sprintf("only_%d=v%d", m, i))
			}
			slices.Sort(pairs)
			var list []series.Sample
			for k := range 1 + random.Int64N(5) {
				list = append(list, series.Sample{T: day*series.DayMillis + k*10_000_000 + random.Int64N(10_000_000), V: random.Float64()})
			}
			d[strings.Join(pairs, ",")] = list
		}
	}
	d["instance=host03,job=nameless"] = []series.Sample{{T: day*series.DayMillis + 5, V: 1}}
	return d
}

// randomMatchers returns one to three random matchers. Most of them select something.
func randomMatchers(random *rand.Rand) (out []*labels.Matcher) {
	value := func(label string) string {
		return map[string][]string{
			"job": {"a", "b", "g", "nameless", "none", ""}, "instance": {"host00", "host03", "host11", "host99", ""},
			"zone": {"z0", "z3", "", "zz"}, "only_9": {"v0", "v1", ""}, "only_36": {"v0", "v5"}, "absent": {"x", ""}, "__name__": {"metric_1", ""},
		}[label][random.IntN(map[string]int{"job": 6, "instance": 5, "zone": 4, "only_9": 3, "only_36": 2, "absent": 2, "__name__": 2}[label])]
	}
	names := []string{"job", "instance", "zone", "only_9", "only_36", "absent", "__name__"}
	for range 1 + random.IntN(3) {
		name := names[random.IntN(len(names))]
		a, b := value(name), value(name)
		typ := []labels.MatchType{labels.MatchEqual, labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp}[random.IntN(5)]
		text := a
		if typ == labels.MatchRegexp || typ == labels.MatchNotRegexp {
			text = []string{a + "|" + b, a + ".*", ".*", ".+", a + "|", "(?i:" + strings.ToUpper(a) + ")|" + b, a + "|" + b + "|x.y"}[random.IntN(7)]
		}
		if name == "__name__" {
			typ, text = labels.MatchRegexp, a+".*"
		}
		out = append(out, labels.MustNewMatcher(typ, name, text))
	}
	return out
}

func selects(ms []*labels.Matcher, ls labels.Labels) bool {
	for _, m := range ms {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}

// TestNarrowedIsComplete compares the results of random queries without a metric name with what
// was pushed and not deleted: over several days, in packs of several generations and in L0
// packs, with deleted series.
func TestNarrowedIsComplete(t *testing.T) {
	random := storetest.Rand()
	m := &measured{}
	x := storetest.New(t, storetest.Ports{Bytes: 6000, Rows: func(r rows.Store) rows.Store { m.Store = r; return m }})
	for d := range int64(4) {
		x.Push(map[tenant.ID]storetest.Data{"a": randomSeries(random, storetest.Day+d), "b": randomSeries(random, storetest.Day+d)}, "i1")
		if d < 3 { // the last day has L0 packs only
			x.Merge(storetest.Day + d)
		}
	}
	if packs := len(x.Manifest("a", storetest.Day).Packs); packs < 2 {
		t.Fatalf("%d packs in a day, want several", packs)
	}
	x.Push(map[tenant.ID]storetest.Data{"a": randomSeries(random, storetest.Day+1)}, "i2")
	x.Push(map[tenant.ID]storetest.Data{"a": randomSeries(random, storetest.Day+2)}, "i2")
	x.Merge(storetest.Day + 2) // a second generation
	const deletedUntil = (storetest.Day+1)*series.DayMillis + 20_000_000
	d, err := x.Index.Tombstones.Reserve(t.Context(), "a", func(n uint64) schema.Tombstone {
		return schema.Tombstone{Number: n, MinTime: 0, MaxTime: deletedUntil, Created: x.Now.UnixMilli(),
			Sets: [][]schema.Matcher{{{Type: labels.MatchEqual, Name: "job", Value: "b"}}}}
	})
	x.Must(nil, err)
	if held, err := x.Index.Tombstones.Activate(t.Context(), "a", d); !held || err != nil {
		t.Fatalf("Activate = %t, %v", held, err)
	}
	nonEmpty, narrowed := 0, 0
	for i := range 600 {
		mint := storetest.Day*series.DayMillis + random.Int64N(3*series.DayMillis)
		maxt := mint + random.Int64N(4*series.DayMillis)
		if i%5 == 0 {
			mint, maxt = 0, math.MaxInt64
		}
		ms := randomMatchers(random)
		// The expected result comes from the pushed samples: another read could have the
		// same fault.
		want := map[string]map[int64]series.Sample{}
		for text, samples := range x.Want["a"] {
			ls := storetest.Parse(text)
			if !selects(ms, ls) {
				continue
			}
			want[text] = map[int64]series.Sample{}
			for at, sample := range samples {
				if at >= mint && at <= maxt && (ls.Get("job") != "b" || at > deletedUntil) {
					want[text][at] = sample
				}
			}
		}
		m.reset()
		x.Read("a", mint, maxt)
		whole := m.rows.Load()
		m.reset()
		got := x.Read("a", mint, maxt, ms...)
		if m.rows.Load() < whole {
			narrowed++
		}
		if len(got) > 0 {
			nonEmpty++
		}
		if err := storetest.Differ(got, want); err != nil {
			t.Fatalf("%v from %d to %d: %v", ms, mint, maxt, err)
		}
	}
	t.Logf("%d of 600 results have series, %d reads were narrowed", nonEmpty, narrowed)
	if nonEmpty < 200 || narrowed < 150 {
		t.Errorf("%d results have series, want 200 or more; %d reads were narrowed, want 150 or more", nonEmpty, narrowed)
	}
}

// TestNarrowedReads checks how many rows a query without a metric name reads: over 7 days with
// 200 metrics, 4 of them with the label value.
func TestNarrowedReads(t *testing.T) {
	m := &measured{}
	var o *objectscounted.Store
	x := storetest.New(t, storetest.Ports{Rows: func(r rows.Store) rows.Store { m.Store = r; return m },
		Objects: func(s objects.Store) objects.Store { o = objectscounted.New(s); return o }})
	for d := range int64(7) {
		data := storetest.Data{}
		for metric := range 200 {
			for i := range 50 {
				text := fmt.Sprintf("__name__=metric_%03d,app=app%02d,instance=host%03d", metric, metric/4, i)
				data[text] = []series.Sample{{T: (storetest.Day+d)*series.DayMillis + int64(i), V: float64(i)}}
			}
		}
		x.Push(map[tenant.ID]storetest.Data{"a": data}, "i1")
		x.Merge(storetest.Day + d)
	}
	read := func(ms ...*labels.Matcher) (string, int) {
		x.Open(0) // without caches
		m.reset()
		o.Gets.Store(0)
		n := len(x.Read("a", 0, math.MaxInt64, ms...))
		return fmt.Sprintf("%s of rows; %d of objects", m, o.Gets.Load()), n
	}
	before, n := read(labels.MustNewMatcher(labels.MatchRegexp, "app", "app07.*")) // no list of values
	after, n2 := read(labels.MustNewMatcher(labels.MatchEqual, "app", "app07"))
	t.Logf("not narrowed: %s; narrowed: %s", before, after)
	if n != 200 || n2 != 200 {
		t.Errorf("%d and %d series, want 200", n, n2)
	}
	// 7 catalogs and names, 7 rows of values, 4 metrics in 7 days, the tenant's row.
	if got := m.rows.Load(); got > 7*2+7+4*7+1 {
		t.Errorf("%d rows were read, want at most %d", got, 7*2+7+4*7+1)
	}
	if _, n := read(labels.MustNewMatcher(labels.MatchEqual, "other", "x")); n != 0 || m.rows.Load() > 15 {
		t.Errorf("%d series with a label that does not exist, %d rows", n, m.rows.Load())
	}
	both, n := read(labels.MustNewMatcher(labels.MatchRegexp, "app", "app07|app08"), labels.MustNewMatcher(labels.MatchEqual, "instance", "host001"))
	t.Logf("two matchers: %s", both)
	if n != 8 {
		t.Errorf("%d series, want 8", n)
	}
}

// TestLostBucket checks that a bucket that the names list and that does not exist is an error: the
// metrics in it would be missing.
func TestLostBucket(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": randomSeries(storetest.Rand(), storetest.Day)}, "i1")
	x.Merge(storetest.Day)
	x.Must(nil, x.Rows.Mutate(t.Context(), rows.RowMutation{Key: schema.ValuesKey("a", "job", storetest.Day), Mutations: []rows.Mutation{rows.DeleteRow()}}))
	_, err := x.Store.Select(t.Context(), series.Request{Tenant: "a", MaxTime: math.MaxInt64,
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "job", "a")}}, nil)
	if err == nil || !strings.Contains(err.Error(), index.ErrInconsistent.Error()) || !strings.Contains(err.Error(), "label job") {
		t.Errorf("Select() without a bucket of label job: %v, want ErrInconsistent with the label", err)
	}
}
