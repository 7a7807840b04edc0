package column

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
)

// odd returns values most of which cannot be scaled to integers, or are near the
// limits of scaling.
func odd() []float64 {
	return []float64{math.Float64frombits(value.StaleNaN), math.NaN(), math.Float64frombits(0x7ff0000000000001),
		math.Float64frombits(0xfff8000000000123), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), 0,
		math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, 0x1p-1030,
		1 << 53, 1<<53 - 1, -(1 << 53), 1<<53 + 2, 1 << 62, -(1 << 63), 1 << 63, 1 << 64, 1e17, 1.7e18, 1e22, 1e23, 1e300,
		0.1, 0.1 + 0.2, 1e-14, 1e-15, 123456.789, math.Pi, -0.5}
}

// randomSeries returns a series of random length with random kinds of values.
func randomSeries(rng *rand.Rand) Series {
	var s Series
	n := []int{0, 1, 2, 3, block, block + 1, batchSize, batchSize + 1, 1 + rng.IntN(50), 1 + rng.IntN(3000)}[rng.IntN(10)]
	s.T = randomTimes(rng, n)
	if n > 0 {
		list := classes()
		c := list[rng.IntN(len(list))]
		s.V = c.make(rng, n, 1)[0]
	}
	values := odd()
	switch rng.IntN(6) {
	case 0: // some are staleness markers
		for range 1 + rng.IntN(3) {
			if n > 0 {
				s.V[rng.IntN(n)] = values[0]
			}
		}
	case 1: // some are odd
		for i := range s.V {
			if rng.IntN(20) == 0 {
				s.V[i] = values[rng.IntN(len(values))]
			}
		}
	case 2: // all are odd
		for i := range s.V {
			s.V[i] = values[rng.IntN(len(values))]
		}
	case 3: // any bits
		for i := range s.V {
			s.V[i] = math.Float64frombits(rng.Uint64())
		}
	case 4: // large multiples of a power of ten
		for i := range s.V {
			s.V[i] = float64(rng.IntN(1e9)) * math.Pow10(rng.IntN(14))
		}
	}
	return s
}

func randomTimes(rng *rand.Rand, n int) []int64 {
	if n == 0 {
		return nil
	}
	ts := make([]int64, n)
	step := 1 + rng.Int64N(series.DayMillis/int64(n)/2+1)
	at := rng.Int64N(series.DayMillis/2 - step*int64(n-1)/2 + 1)
	kind := rng.IntN(5)
	for i := range ts {
		ts[i] = testStart + at
		switch {
		case kind == 1 && rng.IntN(20) == 0:
			at += 2 * step
		case kind == 2:
			at += 1 + rng.Int64N(step)
		case kind == 3 && step > 10:
			ts[i] += rng.Int64N(5)
			at += step
		default:
			at += step
		}
	}
	if ts[n-1] >= testStart+series.DayMillis {
		for i := range ts {
			ts[i] = testStart + int64(i)
		}
	}
	if kind == 4 { // to the last millisecond
		shift := testStart + series.DayMillis - 1 - ts[n-1]
		for i := range ts {
			ts[i] += shift
		}
	}
	return ts
}

func histogramChunks(t testing.TB, rng *rand.Rand) []series.Chunk {
	t.Helper()
	var b series.ChunkBuilder
	at := testStart + rng.Int64N(1000)
	for _, h := range tsdbutil.GenerateTestHistograms(1 + rng.IntN(30)) {
		s := series.Sample{T: at, H: h}
		if rng.IntN(10) == 0 {
			s = series.Sample{T: at, FH: h.ToFloat(nil)}
		}
		if err := b.Add(&s); err != nil {
			t.Fatal(err)
		}
		at += 1 + rng.Int64N(600_000)
	}
	b.Cut()
	return b.Done()
}

func TestProperty(t *testing.T) {
	const seed = 11
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 150 {
		var list []Series
		for range 1 + rng.IntN(30) {
			s := randomSeries(rng)
			if len(list) > 0 && rng.IntN(3) == 0 {
				s = neighbour(rng, list[len(list)-1])
			}
			if len(s.T) == 0 || rng.IntN(10) == 0 {
				s.Histograms = histogramChunks(t, rng)
			}
			list = append(list, s)
		}
		p := encodeAll(t, list)
		decodeAll(t, p, list)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
}

// neighbour returns a series whose values change nearly like the values of another.
func neighbour(rng *rand.Rand, of Series) Series {
	s := Series{T: of.T, V: slices.Clone(of.V)}
	for i := range s.V {
		if rng.IntN(10) == 0 {
			s.V[i]++
		}
	}
	return s
}

// chained returns series that are encoded in chains with codecPrevious.
func chained(t testing.TB) ([]Series, packed) {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 5))
	ts := scrapeTimes(rng, 5)
	list := make([]Series, 40)
	for k, v := range makeBuckets(rng, len(ts), len(list)) {
		for i := range v {
			v[i] += float64(i * i) // so that nothing is as good as the series before
		}
		list[k] = Series{T: ts, V: v}
	}
	p := encodeAll(t, list)
	if len(p.frames) != 1 {
		t.Fatalf("%d frames, want 1", len(p.frames))
	}
	return list, p
}

func TestChains(t *testing.T) {
	list, p := chained(t)
	table, err := Open(p.frames[0], testDay)
	if err != nil {
		t.Fatal(err)
	}
	longest := 0
	for _, e := range table.entries {
		longest = max(longest, int(e.chain))
	}
	if longest != maxChain {
		t.Errorf("longest chain = %d, want %d", longest, maxChain)
	}
	order := rand.New(rand.NewPCG(6, 6)).Perm(len(list))
	for _, k := range append(order, order[0], order[0]) {
		sameSeries(t, table, k, p.times[k], &list[k])
	}
	for k := len(list) - 1; k >= 0; k-- {
		sameSeries(t, table, k, p.times[k], &list[k])
	}
}

func TestConcurrentDecoding(t *testing.T) {
	list, p := chained(t)
	table, err := Open(p.frames[0], testDay)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range list {
				k := (i*(g+1) + g) % len(list)
				_, vs, err := table.AppendFloats(k, p.times[k], nil, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if !slices.Equal(vs, list[k].V) {
					t.Errorf("series %d differs", k)
				}
			}
		})
	}
	wg.Wait()
}

func TestCodecs(t *testing.T) {
	n := 5760
	ts := make([]int64, n)
	for i := range ts {
		ts[i] = testStart + int64(i)*15_000
	}
	rng := rand.New(rand.NewPCG(8, 8))
	walk := int64(0)
	at := func(f func(i int) float64) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = f(i)
		}
		return v
	}
	stale := math.Float64frombits(value.StaleNaN)
	for _, c := range []struct {
		name  string
		codec codec
		most  int // bytes of the payload
		v     []float64
	}{
		{"constant", codecConstant, 60, at(func(int) float64 { return math.Pi })},
		{"constant with a marker", codecDelta, 80, at(func(i int) float64 {
			if i == 1000 {
				return stale
			}
			return 1.5
		})},
		{"markers half of the time", codecDelta, 100, at(func(i int) float64 {
			if i > n/2 {
				return stale
			}
			return 0.25
		})},
		{"steady", codecDoD, 60, at(func(i int) float64 { return float64(i) * 0.5 })},
		{"even acceleration", codecDoD, 70, at(func(i int) float64 { return float64(i) * float64(i) })},
		{"walk", codecDelta, n + 100, at(func(int) float64 { walk += rng.Int64N(21) - 10; return float64(walk) / 100 })},
		{"noise", codecOffset, n + 100, at(func(int) float64 { return float64(rng.IntN(100)) / 10 })},
		{"pages of memory", codecDelta, n + 100, at(func(int) float64 { walk += rng.Int64N(21) - 10; return float64(walk * 4096) })},
		{"single precision", codecOffset, 3*n + n/3, at(func(int) float64 { return float64(rng.Float32()) })},
		{"nanoseconds of seconds", codecDoD, 200, at(func(i int) float64 { return float64(1_700_000_000+i) * 1e9 })},
	} {
		e := NewEncoder(testDay)
		s := Series{T: ts, V: c.v}
		if times, err := e.Add(&s); err != nil || times != nil {
			t.Fatalf("%s: times %d, %v", c.name, len(times), err)
		}
		size := e.Size()
		payload := e.Append(nil)
		table, err := Open(payload, testDay)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := table.entries[0].codec; got != c.codec || len(payload) > c.most || size < len(payload) {
			t.Errorf("%s: codec %d with %d bytes (Size %d), want codec %d with at most %d", c.name, got, len(payload), size, c.codec, c.most)
		}
		sameSeries(t, table, 0, nil, &s)
	}
}

func TestAddRejects(t *testing.T) {
	start := testStart
	ok := series.Chunk{MinTime: start, MaxTime: start + 5, Samples: 2, Encoding: chunkenc.EncHistogram, Data: []byte{0, 2, 9}}
	with := func(f func(c *series.Chunk)) Series {
		c := ok
		f(&c)
		return Series{Histograms: []series.Chunk{c}}
	}
	for name, s := range map[string]Series{
		"lengths":            {T: []int64{start}},
		"twice":              {T: []int64{start, start}, V: []float64{1, 2}},
		"descending":         {T: []int64{start + 1, start}, V: []float64{1, 2}},
		"the day before":     {T: []int64{start - 1}, V: []float64{1}},
		"the day after":      {T: []int64{start + series.DayMillis}, V: []float64{1}},
		"float chunk":        with(func(c *series.Chunk) { c.Encoding = chunkenc.EncXOR }),
		"count":              with(func(c *series.Chunk) { c.Samples = 3 }),
		"no samples":         with(func(c *series.Chunk) { c.Samples, c.Data = 0, []byte{0, 0} }),
		"short chunk":        with(func(c *series.Chunk) { c.Data = nil }),
		"chunk of yesterday": with(func(c *series.Chunk) { c.MinTime = start - 1 }),
		"chunk of tomorrow":  with(func(c *series.Chunk) { c.MaxTime = start + series.DayMillis }),
		"overlap":            {Histograms: []series.Chunk{ok, ok}},
	} {
		e := NewEncoder(testDay)
		if _, err := e.Add(&s); err == nil {
			t.Errorf("%s: Add succeeded, want an error", name)
		}
		good := Series{T: []int64{start}, V: []float64{1}, Histograms: []series.Chunk{ok}}
		if _, err := e.Add(&good); err != nil || e.Len() != 1 {
			t.Errorf("%s: %d series and error %v after a rejected Add", name, e.Len(), err)
		}
		decodeAll(t, packed{frames: [][]byte{e.Append(nil)}, times: [][]byte{nil}}, []Series{good})
		if e.Len() != 0 {
			t.Errorf("%s: %d series after Append", name, e.Len())
		}
	}
}

func TestNewer(t *testing.T) {
	e := NewEncoder(testDay)
	for _, v := range [][]float64{{1, 1, 1}, {1, 2, 4}} {
		if _, err := e.Add(&Series{T: []int64{testStart, testStart + 1, testStart + 3}, V: v}); err != nil {
			t.Fatal(err)
		}
	}
	payload := e.Append(nil)
	entry := func(f func(b []byte)) []byte {
		b := slices.Clone(payload)
		f(b)
		return b
	}
	table, err := Open(payload, testDay)
	if err != nil {
		t.Fatal(err)
	}
	stream := table.entries[1].values + 4 // after exponent, divisor, first integer and the number of exceptions, 0
	if table.entries[1].codec == codecDoD {
		stream++
	}
	for name, b := range map[string][]byte{
		"version":  entry(func(b []byte) { b[0] = 2 }),
		"codec":    entry(func(b []byte) { b[4] = 9 }),
		"exponent": entry(func(b []byte) { b[table.entries[1].values] = 100 }),
		"times":    entry(func(b []byte) { b[table.entries[1].times+2] = 7 }),
		"stream":   entry(func(b []byte) { b[stream] = 9 }),
	} {
		table, err := Open(b, testDay)
		if err == nil {
			_, _, err = table.AppendFloats(1, nil, nil, nil)
		}
		if !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrNewer", name, err)
		}
	}
	if _, _, err := table.AppendFloats(0, []byte{1}, nil, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("AppendFloats with an unneeded timestamp column: %v", err)
	}
}

// TestDamage checks that damaged and truncated bytes cause an error or valid
// samples, but never a panic, and that a truncated column is an error.
func TestDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	var list []Series
	for range 12 {
		s := randomSeries(rng)
		if n := 600; len(s.T) > n {
			s.T, s.V = s.T[:n], s.V[:n]
		}
		s.Histograms = histogramChunks(t, rng)
		list = append(list, s)
	}
	p := encodeAll(t, list)
	payload := p.frames[0]
	for i := range payload {
		b := slices.Clone(payload)
		b[i] ^= byte(1 << rng.IntN(8))
		decodeAny(t, b, p.times)
		decodeAny(t, payload[:i], p.times)
	}
	for k, times := range p.times {
		for i := range times {
			b := slices.Clone(times)
			b[i] ^= byte(1 << rng.IntN(8))
			if n, err := checkTimes(b); err == nil && n > int(series.DayMillis) {
				t.Fatalf("a damaged column of series %d has %d timestamps, more than a day has milliseconds", k, n)
			}
			if _, err := checkTimes(times[:i]); err == nil {
				t.Fatalf("timestamps of series %d: the first %d of %d bytes were accepted as a column", k, i, len(times))
			}
		}
	}
}

// decodeAny decodes a whole payload that may be damaged.
func decodeAny(t testing.TB, payload []byte, times [][]byte) {
	t.Helper()
	table, err := Open(payload, testDay)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		return
	}
	for k := range table.Len() {
		if table.Floats(k) > 1<<16 {
			continue // few bytes can encode a whole day of milliseconds
		}
		var column []byte
		if table.NeedsTimes(k) && k < len(times) {
			column = times[k]
		}
		ts, vs, err := table.AppendFloats(k, column, nil, nil)
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		if err == nil && (len(ts) != table.Floats(k) || len(vs) != len(ts)) {
			t.Fatalf("series %d: %d timestamps and %d values, want %d", k, len(ts), len(vs), table.Floats(k))
		}
		before := testStart - 1
		for i, at := range ts {
			if at <= before || at >= testStart+series.DayMillis {
				t.Fatalf("series %d: timestamp %d is %d, after %d", k, i, at, before)
			}
			before = at
		}
		if _, err := table.Histograms(k); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
}
