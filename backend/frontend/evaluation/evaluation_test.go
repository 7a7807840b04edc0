package evaluation

import (
	"context"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/split"
)

func example() promql.Matrix {
	return promql.Matrix{
		{Metric: labels.FromStrings("a", "1", "b", ""), Floats: []promql.FPoint{{T: 1000, F: math.Copysign(0, -1)}, {T: 61_000, F: 5}}},
		{Metric: labels.EmptyLabels(), Histograms: []promql.HPoint{{T: 31_000, H: tsdbutil.GenerateTestFloatHistogram(3)}}},
	}
}

func encode(m promql.Matrix, start, step int64) []byte {
	b := encoding.Encbuf{}
	for i := range m {
		AppendSeries(&b, &m[i], start, step)
	}
	return b.Get()
}

func TestPoints(t *testing.T) {
	for _, from := range []struct{ start, step int64 }{{1000, 30_000}, {1000, 1}, {70_000, 1}} { // the last: points before start
		data := encode(example(), from.start, from.step)
		got, err := ReadAll(data, 2, from.start, from.step)
		if err != nil || !reflect.DeepEqual(got, example()) {
			t.Errorf("from %d by %d: %v, %v", from.start, from.step, got, err)
		}
		for i := range data {
			if _, err := ReadAll(data[:i], 2, from.start, from.step); !errors.Is(err, ErrDamaged) {
				t.Errorf("cut at byte %d of %d: %v", i, len(data), err)
			}
		}
		if _, err := ReadAll(data, 1, from.start, from.step); !errors.Is(err, ErrDamaged) {
			t.Errorf("too few series: %v", err)
		}
	}
}

// FuzzPoints checks that decoding any bytes returns points or an error.
func FuzzPoints(f *testing.F) {
	f.Add(encode(example(), 1000, 30_000), 2)
	f.Fuzz(func(t *testing.T, data []byte, count int) {
		if m, err := ReadAll(data, min(count, len(data)), 1000, 30_000); err == nil && len(m) > len(data) {
			t.Errorf("%d series in %d bytes", len(m), len(data))
		}
	})
}

// TestNotes checks that annotations that were sent as text, once or twice, are printed as before, and
// that annotations with a state are still recognized.
func TestNotes(t *testing.T) {
	const query = "histogram_quantile(0.9, x)"
	pos := posrange.PositionRange{Start: 2, End: 5}
	plain := annotations.New()
	plain.Add(annotations.NewBadBucketLabelWarning("m", "l", pos))
	plain.Add(annotations.NewPossibleNonCounterInfo("m", pos))
	state := annotations.New()
	state.Add(annotations.NewHistogramQuantileForcedMonotonicityInfo("m", pos, 1, 2, 3, 4))
	for name, tt := range map[string]struct {
		all      annotations.Annotations
		joinable bool
	}{"plain": {*plain, true}, "with a state": {*state, false}, "none": {nil, true}} {
		wantWarnings, wantInfos := tt.all.AsStrings(query, 0, 0)
		for range 2 {
			notes, joinable := NotesOf(tt.all, query)
			if joinable != tt.joinable {
				t.Errorf("%s: joinable %v", name, joinable)
			}
			res := (&Answer{Notes: notes, Joinable: joinable}).Result()
			warnings, infos := res.Warnings.AsStrings(query, 0, 0)
			if !sameSet(warnings, wantWarnings) || !sameSet(infos, wantInfos) {
				t.Errorf("%s: %q, %q; want %q, %q", name, warnings, infos, wantWarnings, wantInfos)
			}
			if Unjoinable(res.Warnings) != !tt.joinable {
				t.Errorf("%s: unjoinable %v", name, Unjoinable(res.Warnings))
			}
			res.Warnings.AsStrings("", 0, 0) // printing them must not change them
			tt.all = res.Warnings
		}
	}
}

func sameSet(a, b []string) bool {
	set := map[string]int{}
	for _, s := range a {
		set[s]++
	}
	for _, s := range b {
		set[s]--
	}
	for _, n := range set {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestRequestOf(t *testing.T) {
	at := split.Times{Start: time.Unix(1, 0), End: time.Unix(2, 0), Step: time.Second}
	from := Request{Access: tenant.Access{Tenant: "acme"}, Partial: true}
	got := from.Of(context.Background(), promql.NewPrometheusQueryOpts(false, time.Minute, nil), "x", at)
	want := Request{Access: from.Access, Partial: true, Text: "x", Times: at, Lookback: time.Minute, Class: queue.Range}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("request %+v, want %+v", got, want)
	}
	use := true
	for _, tt := range []struct {
		opts promql.QueryOpts
		want bool
	}{{nil, true}, {promql.NewPrometheusQueryOpts(false, 0, nil), true}, {promql.NewPrometheusQueryOpts(true, 0, nil), false},
		{promql.NewPrometheusQueryOpts(false, 0, &use), false}} {
		if got := Portable(context.Background(), tt.opts); got != tt.want || Portable(WithPrice(context.Background()), tt.opts) {
			t.Errorf("%+v: portable %t", tt.opts, got)
		}
	}
}

func TestClassOf(t *testing.T) {
	ctx := context.Background()
	if ClassOf(ctx, true) != queue.Instant || ClassOf(ctx, false) != queue.Range {
		t.Errorf("classes %v and %v of an instant and a range query", ClassOf(ctx, true), ClassOf(ctx, false))
	}
	if got := ClassOf(WithClass(ctx, queue.Rule), true); got != queue.Rule {
		t.Errorf("class %v of a rule", got)
	}
}

// TestKey checks that the key depends on the fields of a request that may change its answer or class.
func TestKey(t *testing.T) {
	base := func() *Request { return &Request{Text: "x"} }
	for name, change := range map[string]func(*Request){
		"tenant": func(r *Request) { r.Access.Tenant = "other" }, "limits": func(r *Request) { r.Limits.MaxQuerySamples++ },
		"text": func(r *Request) { r.Text = "y" }, "start": func(r *Request) { r.Times.Start = time.Unix(1, 0) },
		"part of a second": func(r *Request) { r.Times.End = r.Times.End.Add(1) }, "step": func(r *Request) { r.Times.Step = 1 },
		"584 years later": func(r *Request) { r.Times.End = r.Times.End.Add(math.MaxInt64).Add(math.MaxInt64).Add(2) },
		"look-back":       func(r *Request) { r.Lookback = 1 }, "class": func(r *Request) { r.Class = queue.Rule },
	} {
		r := base()
		if change(r); r.Key() == base().Key() {
			t.Errorf("%s: the same key", name)
		}
	}
}

func TestCost(t *testing.T) {
	got := Cost{Series: 3, Samples: 9, Read: math.MaxInt64 - 1}.And(Cost{Series: 5, Samples: 2, Read: 7})
	if got != (Cost{Series: 5, Samples: 9, Read: math.MaxInt64}) {
		t.Errorf("cost %+v", got)
	}
}
