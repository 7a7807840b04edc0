package split

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/teststorage"
)

const (
	dataHours = 12
	scrape    = 2 * minute
)

// made is a series of the test data. value returns the sample at the i-th scrape, and false if
// there is none.
type made struct {
	labels labels.Labels
	value  func(i int64) (float64, *histogram.Histogram, bool)
}

// dataset fills a storage with 12 hours of floats, native histograms with
// exponential and custom buckets, classic histograms, counters with resets,
// gaps, staleness markers, series that exist for some hours only, and equal
// label sets under several names.
func dataset(t testing.TB, seed int64) (*teststorage.TestStorage, []labels.Labels) {
	t.Helper()
	rnd := rand.New(rand.NewSource(seed))
	all := seriesOf(rnd)
	db := teststorage.New(t)
	alive := make([]bool, len(all))
	for i := int64(0); i <= dataHours*hour/scrape; i++ {
		app := db.Appender(context.Background())
		ts := base + i*scrape
		for n, s := range all {
			f, h, ok := s.value(i)
			switch {
			case ok && h != nil:
				_, err := app.AppendHistogram(0, s.labels, ts, h, nil)
				must(t, err)
			case ok:
				_, err := app.Append(0, s.labels, ts, f)
				must(t, err)
			case alive[n] && n%2 == 0: // half of the series end with a marker
				_, err := app.Append(0, s.labels, ts, math.Float64frombits(value.StaleNaN))
				must(t, err)
			}
			alive[n] = ok
		}
		must(t, app.Commit())
	}
	var names []labels.Labels
	for _, s := range all {
		names = append(names, s.labels)
	}
	return db, names
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lives reports whether series n exists at scrape i. Some series exist only in the first or last
// hours, some have gaps of two hours, and the others have short gaps.
func lives(n int, i int64) bool {
	h := i * scrape / hour
	switch n % 5 {
	case 1:
		return h < 4
	case 2:
		return h >= 7
	case 3:
		return h%5 < 3
	}
	return (i+int64(n)*37)%97 > 3 // gaps
}

func seriesOf(rnd *rand.Rand) []made {
	var all []made
	add := func(n int, name string, value func(i int64) (float64, *histogram.Histogram, bool), kv ...string) {
		l := labels.FromStrings(append([]string{model.MetricNameLabel, name}, kv...)...)
		all = append(all, made{l, func(i int64) (float64, *histogram.Histogram, bool) {
			if !lives(n, i) {
				return 0, nil, false
			}
			return value(i)
		}})
	}
	floats := func(f func(i int64) float64) func(i int64) (float64, *histogram.Histogram, bool) {
		return func(i int64) (float64, *histogram.Histogram, bool) { return f(i), nil, true }
	}
	for n := range 10 {
		job, pod := fmt.Sprintf("j%d", n%3), fmt.Sprintf("p%d", 9-n)
		total := rnd.Float64() * 100
		add(n, "requests_total", floats(func(i int64) float64 {
			if total += rnd.ExpFloat64(); rnd.Intn(120) == 0 {
				total = 0.1
			}
			return total
		}), "job", job, "pod", pod)
		add(n+1, "temp", floats(func(i int64) float64 { return oddFloat(rnd) }), "job", job, "pod", pod, "zone", fmt.Sprintf("z%d", n%2))
		add(n+2, "up", floats(func(i int64) float64 { return float64(rnd.Intn(2)) }), "job", job, "pod", pod)
		add(n, "limit", floats(func(i int64) float64 { return float64(n) + 0.1 }), "pod", pod)
	}
	addHistograms(rnd, add)
	// One label set under two names, at different hours.
	add(1, "first_total", floats(func(i int64) float64 { return float64(i) * 1.1 }), "pod", "x")
	add(2, "second_total", floats(func(i int64) float64 { return float64(i) * 2.3 }), "pod", "x")
	return all
}

func addHistograms(rnd *rand.Rand, add func(int, string, func(int64) (float64, *histogram.Histogram, bool), ...string)) {
	for n := range 4 {
		count := int64(0)
		pod := fmt.Sprintf("p%d", n)
		add(n, "latency", func(i int64) (float64, *histogram.Histogram, bool) {
			if count += rnd.Int63n(3); rnd.Intn(100) == 0 {
				count = 0
			}
			h := tsdbutil.GenerateTestHistogram(count)
			h.Sum += 0.1
			return 0, h, true
		}, "pod", pod)
		add(n+1, "sizes", func(i int64) (float64, *histogram.Histogram, bool) {
			return 0, tsdbutil.GenerateTestCustomBucketsHistogram(i / 3), true
		}, "pod", pod)
		add(n+2, "mixed", func(i int64) (float64, *histogram.Histogram, bool) {
			if (i/50+int64(n))%2 == 0 {
				return float64(i) / 7, nil, true
			}
			return 0, tsdbutil.GenerateTestGaugeHistogram(i), true
		}, "pod", pod)
		buckets := [4]float64{}
		for b, le := range []string{"0.1", "1", "10", "+Inf"} {
			add(n, "duration_bucket", func(i int64) (float64, *histogram.Histogram, bool) {
				below := 0.0
				if b > 0 {
					below = buckets[b-1]
				}
				// The buckets grow independently, so their rates are not always monotonic.
				buckets[b] = max(buckets[b], below) + rnd.Float64()*float64(5-rnd.Intn(6))
				return buckets[b], nil, true
			}, "pod", pod, "le", le)
		}
	}
}

func oddFloat(rnd *rand.Rand) float64 {
	switch rnd.Intn(30) {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1 - 2*rnd.Intn(2))
	case 2:
		return math.Copysign(0, -1)
	case 3:
		return 0
	case 4:
		return rnd.NormFloat64() * 1e17
	}
	return rnd.NormFloat64() * 30
}

// only is a storage with the samples of another storage whose times keep accepts.
type only struct {
	storage.Queryable
	keep func(ts int64) bool
}

// Querier implements storage.Queryable.
func (o only) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := o.Queryable.Querier(mint, maxt)
	return onlyQuerier{q, o.keep}, err
}

type onlyQuerier struct {
	storage.Querier
	keep func(ts int64) bool
}

// Select implements storage.Querier.
func (q onlyQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return onlySet{q.Querier.Select(ctx, true, hints, ms...), q.keep}
}

type onlySet struct {
	storage.SeriesSet
	keep func(ts int64) bool
}

// At implements storage.SeriesSet.
func (s onlySet) At() storage.Series {
	return keepSamples(s.SeriesSet.At(), s.keep)
}
