package main

import "math"

// kind is the way in which the values of a series change.
type kind uint8

const (
	constant kind = iota
	counter       // integers, a few increments per interval, often none
	cpuSeconds
	byteCounter
	decimalGauge
	memoryGauge // multiples of 4096
	fullPrecision
)

// values generates the samples of one series in order. Its state is small because a
// tenant has hundreds of thousands of series.
type values struct {
	kind kind
	rng  uint64
	base float64
	rate float64
	n    int64 // integer state: count, hundredths, pages
}

func newValues(k kind, seed uint64) values {
	v := values{kind: k, rng: seed}
	v.next()
	switch k {
	case constant:
		v.base = [...]float64{0, 0, 0, 1, 1, 1500, float64(v.below(1 << 36)), 1.7e9 + float64(v.below(1e7))}[v.below(8)]
	case counter:
		v.n, v.rate = int64(v.below(1e7)), [...]float64{0.1, 1, 10, 300}[v.below(4)]
	case cpuSeconds:
		v.n, v.rate = int64(v.below(1e9)), [...]float64{2, 20, 60, 1300}[v.below(4)]
	case byteCounter:
		v.n, v.rate = int64(v.below(1<<40)), [...]float64{2e3, 1e5, 5e6}[v.below(3)]
	case decimalGauge:
		v.n, v.base = int64(v.below(5000)), [...]float64{10, 100, 1000}[v.below(3)]
	case memoryGauge:
		v.n, v.rate = int64(v.below(1<<22)), [...]float64{4, 200, 5000}[v.below(3)]
	case fullPrecision:
		v.base = v.float() * 100
	}
	return v
}

// next implements splitmix64.
func (v *values) next() uint64 {
	v.rng += 0x9e3779b97f4a7c15
	z := v.rng
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (v *values) below(n uint64) uint64 { return v.next() % n }
func (v *values) float() float64        { return float64(v.next()>>11) / (1 << 53) }

// about returns an integer near the mean, mostly zero if the mean is below one.
func (v *values) about(mean float64) int64 {
	x := mean * (0.5 + v.float())
	whole := math.Floor(x)
	if v.float() < x-whole {
		whole++
	}
	return int64(whole)
}

func (v *values) sample() float64 {
	switch v.kind {
	case counter:
		v.n += v.about(v.rate)
		return float64(v.n)
	case cpuSeconds:
		v.n += v.about(v.rate)
		return float64(v.n) / 100
	case byteCounter:
		v.n += v.about(v.rate)
		return float64(v.n)
	case decimalGauge:
		v.n = max(0, v.n+v.about(8)-8)
		return float64(v.n) / v.base
	case memoryGauge:
		if v.below(3) > 0 {
			v.n = max(0, v.n+v.about(v.rate)-int64(v.rate))
		}
		return float64(v.n) * 4096
	case fullPrecision:
		v.base += v.float() - 0.5
		return v.base
	}
	return v.base
}
