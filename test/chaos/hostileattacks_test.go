package chaos

import (
	"fmt"
	"math"
	"math/rand"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// Bounds of docs/format/bounds.md, as they apply to clients.
const (
	boundTime       = int64(9_214_646_399_999)
	boundLabels     = 16_384
	boundLabelBytes = 1 << 20
	boundMetricName = 4 << 10
	boundParts      = 16_384
	boundChunks     = 10_000
	boundHelp       = 16 << 10
	boundWindows    = 1_024
)

// attacker creates the requests of one hostile tenant. Each call of an attack has its own series,
// with id as a label.
type attacker struct {
	rnd       *rand.Rand
	unlimited bool // the tenant has the limits of unlimitedLimits
	long      bool // requests may occasionally have the maximal size
	id        string
	now       int64
}

// attack is one kind of requests.
type attack struct {
	name string
	make func(a *attacker) []hostileRequest
}

// attacks contains all kinds of attacks.
var attacks = []attack{
	{"alternating", (*attacker).alternating}, {"resets", (*attacker).resets}, {"layouts", (*attacker).layouts},
	{"buckets", (*attacker).buckets}, {"bounds", (*attacker).customBounds}, {"special", (*attacker).special},
	{"late", (*attacker).late}, {"conflicts", (*attacker).conflicts}, {"times", (*attacker).times}, {"windows", (*attacker).windows},
	{"days", (*attacker).days}, {"far", (*attacker).far}, {"labels", (*attacker).manyLabels}, {"large", (*attacker).largeLabels},
	{"names", (*attacker).names}, {"bytes", (*attacker).bytes}, {"metrics", (*attacker).metrics}, {"metadata", (*attacker).metadataOnly},
	{"exemplars", (*attacker).exemplars}, {"symbols", (*attacker).symbols}, {"dense", (*attacker).dense}, {"requests", (*attacker).requests},
}

func (a *attacker) version() int { return 1 + a.rnd.Intn(2) }

func (a *attacker) series(attack string, points ...point) hostileSeries {
	return hostileSeries{labels: hostileLabels(attack, a.id), points: points}
}

// intHistogram returns a histogram with n buckets. The first bucket has count
// observations, and every other bucket has one.
func intHistogram(schema int32, offset int32, n int, count uint64) *histogram.Histogram {
	h := &histogram.Histogram{Schema: schema, ZeroThreshold: 0.001, Count: count, Sum: float64(count), PositiveSpans: []histogram.Span{{Offset: offset, Length: uint32(n)}}}
	h.PositiveBuckets = make([]int64, n)
	h.PositiveBuckets[0] = int64(count)
	if n > 1 {
		h.PositiveBuckets[1] = 1 - int64(count)
		h.Count += uint64(n - 1)
	}
	return h
}

// alternating alternates between the three kinds of values with every sample, up to
// the bound of chunks and beyond.
func (a *attacker) alternating() []hostileRequest {
	mixed := func(from, n int) []point {
		var out []point
		for i := from; i < from+n; i++ {
			p, h := point{t: a.now - 30_000 + int64(i)}, intHistogram(1, 0, 2, uint64(i))
			switch i % 3 {
			case 0:
				p.h = h
			case 1:
				p.v = float64(i)
			case 2:
				p.fh = h.ToFloat(nil)
			}
			out = append(out, p)
		}
		return out
	}
	// First exactly the bound. Each sample is in an entry of its own, as Prometheus sends
	// them: an entry with several samples lists floats and histograms separately, which
	// loses their order. Then a request beyond the bound, of which a part is rejected.
	var exact []hostileSeries
	for _, p := range mixed(0, boundChunks) {
		exact = append(exact, a.series("alternating", p))
	}
	return []hostileRequest{
		{version: a.version(), good: exact},
		{version: a.version(), good: []hostileSeries{a.series("alternating", mixed(boundChunks, boundChunks)...)}, reason: "too_many_sample_type_changes"},
	}
}

// flood alternates between floats and histograms so often that a page could not hold
// the chunks, in ordinary requests. All but the first are rejected.
func (a *attacker) flood(part int) hostileRequest {
	const n = 100_000
	s := hostileSeries{labels: hostileLabels("alternating", a.id, "kind", "flood")}
	h := intHistogram(0, 0, 1, 1)
	for i := part * n; i < (part+1)*n; i++ {
		p := point{t: a.now - 1_200_000 + int64(i), v: 1}
		if i%2 == 1 {
			p = point{t: p.t, h: h}
		}
		s.points = append(s.points, p)
	}
	return hostileRequest{version: 1, good: []hostileSeries{s}, reason: "too_many_sample_type_changes"}
}

// floodRequests is the number of requests of flood that exceed the 2^20 chunks of a page.
const floodRequests = 11

func (a *attacker) resets() []hostileRequest {
	s, f := hostileSeries{labels: hostileLabels("resets", a.id)}, hostileSeries{labels: hostileLabels("resets", a.id, "kind", "float")}
	for i := range 4000 {
		h := intHistogram(2, 0, 3, uint64(5000-i))
		s.points = append(s.points, point{t: a.now - 60_000 + int64(i), h: h})
		f.points = append(f.points, point{t: a.now - 60_000 + int64(i), fh: h.ToFloat(nil)})
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s, f}}}
}

func (a *attacker) layouts() []hostileRequest {
	s := hostileSeries{labels: hostileLabels("layouts", a.id)}
	for i := range 3000 {
		h := intHistogram(int32(a.rnd.Intn(13)-4), int32(a.rnd.Intn(1<<20)-1<<19), 1+a.rnd.Intn(8), uint64(1+i))
		if i%7 == 0 {
			h.ZeroThreshold = float64(i)
		}
		if i%11 == 0 {
			h.CounterResetHint = histogram.GaugeType
		}
		s.points = append(s.points, point{t: a.now - 60_000 + int64(i), h: h})
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s}}}
}

// buckets sends histograms with the maximal number of buckets, and of spans.
func (a *attacker) buckets() []hostileRequest {
	n, reason := a.parts()
	spread := func(n int) *histogram.Histogram { // one span for each bucket
		h := intHistogram(8, -5, n, 3)
		h.PositiveSpans = nil
		for range n {
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: 2, Length: 1})
		}
		return h
	}
	coarse := func(h *histogram.Histogram) *histogram.Histogram { // its resolution cannot be reduced
		h.Schema = -4
		return h
	}
	good := a.series("buckets", point{t: a.now - 4, h: intHistogram(8, 0, n, 1)}, point{t: a.now - 3, fh: intHistogram(8, 1, n, 2).ToFloat(nil)}, point{t: a.now - 2, h: spread(n)})
	beyond := hostileSeries{labels: hostileLabels("buckets", a.id, "beyond", "1"), points: []point{{t: a.now, h: intHistogram(-4, 0, n+1, 1)}, {t: a.now + 1, fh: coarse(spread(n + 1)).ToFloat(nil)}}}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{good}, beyond: []hostileSeries{beyond}, reason: reason}}
}

// parts returns the maximal number of buckets, spans or custom bounds of a histogram,
// and the reason with which more are rejected.
func (a *attacker) parts() (n int, reason string) {
	if a.unlimited {
		return boundParts, "histogram_too_large"
	}
	return 640, "max_histogram_buckets"
}

func (a *attacker) customBounds() []hostileRequest {
	custom := func(n, step int) *histogram.Histogram {
		h := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 2, Sum: 1, PositiveSpans: []histogram.Span{{Offset: 0, Length: 1}}, PositiveBuckets: []int64{2}}
		for i := range n {
			h.CustomValues = append(h.CustomValues, float64(i*step)+0.5)
		}
		return h
	}
	s := a.series("bounds")
	for i := range 1000 {
		h := custom(1+i%50, 1+i%3)
		s.points = append(s.points, point{t: a.now - 60_000 + int64(2*i), h: h}, point{t: a.now - 60_000 + int64(2*i+1), fh: h.ToFloat(nil)})
	}
	n, reason := a.parts()
	s.points = append(s.points, point{t: a.now, h: custom(n, 1)})
	beyond := hostileSeries{labels: hostileLabels("bounds", a.id, "beyond", "1"), points: []point{{t: a.now, h: custom(n+1, 1)}}}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s}, beyond: []hostileSeries{beyond}, reason: reason}}
}

// special sends the special floats (NaN, infinities, zeros), between floats and
// histograms.
func (a *attacker) special() []hostileRequest {
	stale := math.Float64frombits(value.StaleNaN)
	floats := []float64{stale, math.Copysign(0, -1), 0, math.Inf(1), math.Inf(-1), math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, math.NaN(),
		math.Float64frombits(0x7ff8deadbeef0001), math.Float64frombits(0xfff8000000000001), math.Float64frombits(0x7ff4000000000001), math.Float64frombits(value.StaleNaN + 1)}
	plain, mixed := a.series("special"), hostileSeries{labels: hostileLabels("special", a.id, "kind", "mixed")}
	for i := range 500 {
		at := a.now - 60_000 + int64(i)
		plain.points = append(plain.points, point{t: at, v: floats[a.rnd.Intn(len(floats))]})
		p, h := point{t: at}, intHistogram(0, 0, 2, uint64(i))
		switch a.rnd.Intn(5) {
		case 0:
			p.h = &histogram.Histogram{Sum: stale}
		case 1:
			p.fh = &histogram.FloatHistogram{Sum: stale}
		case 2:
			h.Sum, h.Count = math.NaN(), h.Count+5 // a NaN was observed
			p.h = h
		case 3:
			p.fh = h.ToFloat(nil)
			p.fh.Sum = math.Inf(-1)
		case 4:
			p.v = floats[a.rnd.Intn(len(floats))]
		}
		mixed.points = append(mixed.points, p)
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{plain, mixed}}}
}

// late sends floats and histograms in random order.
func (a *attacker) late() []hostileRequest {
	floats, mixed := a.series("late"), hostileSeries{labels: hostileLabels("late", a.id, "kind", "mixed")}
	order := a.rnd.Perm(4000)
	for _, i := range order {
		floats.points = append(floats.points, point{t: a.now - 8_000_000 + int64(i)*2000, v: float64(i)})
		if i%4 == 0 {
			p := point{t: a.now - 60_000 + int64(i), h: intHistogram(1, 0, 2, uint64(i))}
			if i%8 == 0 {
				p = point{t: p.t, v: float64(i)}
			}
			mixed.points = append(mixed.points, p)
		}
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{floats, mixed}}}
}

// conflicts sends several values for one time, in one request and in several, and
// duplicates of them.
func (a *attacker) conflicts() []hostileRequest {
	newest := a.series("conflicts", point{t: a.now, v: 1})
	all := []hostileRequest{{version: 1, good: []hostileSeries{newest}}}
	for range 4 {
		s := a.series("conflicts")
		for range 500 {
			p := point{t: a.now - 60_000 + int64(a.rnd.Intn(200))}
			switch n := a.rnd.Intn(4); n {
			case 0:
				p.h = intHistogram(1, 0, 2, uint64(a.rnd.Intn(5)))
			case 1:
				p.fh = intHistogram(1, 0, 2, uint64(a.rnd.Intn(5))).ToFloat(nil)
			case 2:
				p.v = math.Float64frombits(value.StaleNaN)
			default:
				p.v = float64(a.rnd.Intn(5))
			}
			s.points = append(s.points, p)
		}
		r := hostileRequest{version: a.version(), good: []hostileSeries{s}}
		all = append(all, r, r)
	}
	newest = a.series("conflicts", point{t: a.now, v: 2})
	return append(all, hostileRequest{version: 2, good: []hostileSeries{newest}})
}

func (a *attacker) times() []hostileRequest {
	good, beyond := a.series("times"), hostileSeries{labels: hostileLabels("times", a.id, "beyond", "1")}
	for _, t := range []int64{a.now, 0, 1, 86_399_999, boundTime, boundTime - 1} {
		good.points = append(good.points, point{t: t, v: float64(t)})
	}
	for _, t := range []int64{boundTime + 1, math.MaxInt64, math.MaxInt64 - 1, a.now * 1_000, a.now * 1_000_000, 1 << 60} {
		beyond.points = append(beyond.points, point{t: t, v: 1})
	}
	before := hostileSeries{labels: hostileLabels("times", a.id, "before", "1"), points: []point{{t: -1, v: 1}, {t: math.MinInt64, v: 1}, {t: -a.now, h: intHistogram(0, 0, 1, 1)}}}
	return []hostileRequest{
		{version: 1, good: []hostileSeries{good}, beyond: []hostileSeries{beyond}, reason: "after_2261"},
		{version: 2, good: []hostileSeries{good}, beyond: []hostileSeries{before}, reason: "before_1970"},
	}
}

// windows sends as many windows as a request may have, and one more.
func (a *attacker) windows() []hostileRequest {
	n, start := boundWindows, int64(1_000_000_000_000)
	if !a.unlimited {
		n, start = 160, a.now-160*windowMillis
	}
	start -= start % windowMillis
	good := a.series("windows")
	for i := range n {
		good.points = append(good.points, point{t: start + int64(i)*windowMillis + a.rnd.Int63n(windowMillis), v: float64(i)})
	}
	r := hostileRequest{version: a.version(), good: []hostileSeries{good}}
	if a.unlimited {
		r.beyond = []hostileSeries{{labels: hostileLabels("windows", a.id, "beyond", "1"), points: []point{{t: start - 1, v: 1}}}}
		r.reason = "max_request_windows"
	}
	return []hostileRequest{r}
}

// days sends one sample in each of many days: without limits in a range that begins between
// 1970 and 2009, otherwise in the last days.
func (a *attacker) days() []hostileRequest {
	n, start := int64(40), a.rnd.Int63n(40)*365*dayMillis
	switch {
	case !a.unlimited:
		n, start = 13, a.now-13*dayMillis
	case a.long:
		n = boundWindows
	}
	s := a.series("days")
	for i := range n {
		s.points = append(s.points, point{t: start + i*dayMillis, v: float64(i)})
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s}}}
}

// far sends samples in the far future, floats and histograms.
func (a *attacker) far() []hostileRequest {
	s := a.series("far")
	for i := range 20 {
		t := a.now + 1 + a.rnd.Int63n(boundTime-a.now)
		if i%2 == 0 {
			s.points = append(s.points, point{t: t, v: float64(i)})
		} else {
			s.points = append(s.points, point{t: t, h: intHistogram(1, 0, 2, uint64(i))})
		}
	}
	return []hostileRequest{{version: a.version(), good: []hostileSeries{s}}}
}

func nowMillis() int64 { return time.Now().UnixMilli() }

func repeat(c string, n int) string { return strings.Repeat(c, n) }

// padded adds a label "pad" so that the labels have exactly n bytes in total.
func padded(ls labels.Labels, n int) labels.Labels {
	size := len("pad")
	ls.Range(func(l labels.Label) { size += len(l.Name) + len(l.Value) })
	b := labels.NewBuilder(ls)
	b.Set("pad", repeat("x", n-size))
	return b.Labels()
}

func numbered(prefix string, n int) string { return fmt.Sprintf("%s%05d", prefix, n) }
