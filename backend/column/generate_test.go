package column

import (
	"math"
	"math/rand/v2"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	testDay   = 20_000
	testStart = testDay * series.DayMillis
)

// class generates groups of adjacent series, like the series of one metric.
type class struct {
	name   string
	series int // number of series in the mix
	group  int // series that are made together
	make   func(rng *rand.Rand, n, group int) [][]float64
}

// classes is the mix of an average scrape target: 738 series.
func classes() []class {
	return []class{
		{"constants", 120, 40, makeConstants},
		{"histogram buckets", 200, 20, makeBuckets},
		{"slow counters", 100, 20, makeSlowCounters},
		{"counters with resets", 20, 20, makeResets},
		{"int gauges", 90, 30, makeIntGauges},
		{"byte counters", 80, 20, makeByteCounters},
		{"decimal gauges", 40, 20, makeDecimalGauges},
		{"cpu seconds", 44, 22, makeCPU},
		{"histogram sums", 22, 22, makeSums},
		{"random gauges", 22, 22, makeRandom},
	}
}

func eachOf(n, group int, fill func(k int, v []float64)) [][]float64 {
	out := make([][]float64, group)
	for k := range out {
		out[k] = make([]float64, n)
		fill(k, out[k])
	}
	return out
}

func makeConstants(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(k int, v []float64) {
		c := []float64{0, 1, 1.7e9 + float64(rng.IntN(1e6)), rng.Float64(), float64(rng.IntN(1 << 30))}[k%5]
		for i := range v {
			v[i] = c
		}
	})
}

func makeBuckets(rng *rand.Rand, n, group int) [][]float64 {
	out := eachOf(n, group, func(int, []float64) {})
	rate := 0.02 + 2*rng.Float64()*rng.Float64()
	counts := make([]float64, group)
	for i := range n {
		for range poisson(rng, rate) {
			first := int(math.Abs(rng.NormFloat64()*2.5 + float64(group)/3))
			for k := min(first, group-1); k < group; k++ {
				counts[k]++
			}
		}
		for k := range out {
			out[k][i] = counts[k]
		}
	}
	return out
}

func poisson(rng *rand.Rand, mean float64) int {
	limit, p, k := math.Exp(-mean), rng.Float64(), 0
	for ; p > limit; k++ {
		p *= rng.Float64()
	}
	return k
}

func makeSlowCounters(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		c, p := float64(rng.IntN(1e5)), 0.3*rng.Float64()*rng.Float64()
		for i := range v {
			if rng.Float64() < p {
				c += float64(1 + rng.IntN(3))
			}
			v[i] = c
		}
	})
}

func makeResets(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		c := float64(rng.IntN(1e6))
		for i := range v {
			c += float64(rng.IntN(40))
			if rng.IntN(1000) == 0 {
				c = 0
			}
			v[i] = c
		}
	})
}

func makeIntGauges(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		level := float64(20 + rng.IntN(200))
		width := 1 + 4*rng.Float64()
		x := 0.0
		for i := range v {
			x = 0.9*x + rng.NormFloat64()*width
			v[i] = math.Round(level + x)
		}
	})
}

func makeByteCounters(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		rate, jitter := 1e3+1e5*rng.Float64(), 0.02+0.2*rng.Float64()
		c := float64(rng.IntN(1e12))
		for i := range v {
			c += math.Max(0, math.Round(rate*(1+jitter*rng.NormFloat64())))
			v[i] = c
		}
	})
}

func makeDecimalGauges(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(k int, v []float64) {
		p := math.Pow(10, float64(1+k%3))
		x := 20 + 50*rng.Float64()
		for i := range v {
			x += rng.NormFloat64() * 2 / p
			v[i] = math.Round(x*p) / p
		}
	})
}

func makeCPU(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		c, load := float64(rng.IntN(1e8)), rng.Float64()
		for i := range v {
			load = math.Min(1, math.Max(0, load+0.05*rng.NormFloat64()))
			c += math.Round(math.Max(0, 1500*load+30*rng.NormFloat64()))
			v[i] = c / 100
		}
	})
}

func makeSums(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		c, p := 1000*rng.Float64(), 0.2+0.7*rng.Float64()
		for i := range v {
			if rng.Float64() < p {
				c += rng.ExpFloat64() * 0.05
			}
			v[i] = c
		}
	})
}

func makeRandom(rng *rand.Rand, n, group int) [][]float64 {
	return eachOf(n, group, func(_ int, v []float64) {
		for i := range v {
			v[i] = 100 * rng.Float64()
		}
	})
}

// generate returns the series of a class in groups, all with the same
// timestamps.
func generate(rng *rand.Rand, c class, ts []int64) []Series {
	var out []Series
	for len(out) < c.series {
		for _, v := range c.make(rng, len(ts), c.group) {
			out = append(out, Series{T: ts, V: v})
		}
	}
	return out[:c.series]
}

// scrapeTimes returns timestamps every 15 s of the test day, each delayed by up
// to jitter ms.
func scrapeTimes(rng *rand.Rand, jitter int64) []int64 {
	ts := make([]int64, 5760)
	at := testStart + rng.Int64N(15_000-jitter)
	for i := range ts {
		ts[i] = at + int64(i)*15_000
		if jitter > 0 {
			ts[i] += rng.Int64N(jitter + 1)
		}
	}
	return ts
}
