package main

import (
	"github.com/palliumhq/pallium/backend/series"
)

// run generates the samples of a tenant's series, window by window.
type run struct {
	series    []oneSeries
	days      int
	interval  int64 // milliseconds
	jitter    int64 // milliseconds in either direction
	ingesters int   // ingesters that have all samples, except for gaps
	states    []values
	samples   int64 // unique samples generated so far
}

func newRun(list []oneSeries, days int, interval, jitter int64, ingesters int) *run {
	r := &run{series: list, days: days, interval: interval, jitter: jitter, ingesters: ingesters, states: make([]values, len(list))}
	for i := range list {
		r.states[i] = newValues(list[i].kind, list[i].seed)
	}
	return r
}

// mix hashes a and b.
func mix(a, b uint64) uint64 {
	v := values{rng: a*0x9e3779b97f4a7c15 + b}
	return v.next()
}

// times appends the timestamps of a target's scrapes in [start, end). All series of a
// target share them.
func (r *run) times(out []int64, target int, start, end int64) []int64 {
	offset := int64(mix(uint64(target), 7) % uint64(r.interval))
	if r.jitter > 0 {
		offset = min(max(offset, r.jitter), r.interval-r.jitter-1)
	}
	for t := start; t < end; t += r.interval {
		at := t + offset
		if r.jitter > 0 {
			at += int64(mix(uint64(target), uint64(t))%uint64(2*r.jitter+1)) - r.jitter
		}
		out = append(out, at)
	}
	return out
}

// window generates the next window of every series and passes each ingester's chunks to `add`. For 2%
// of the series one ingester lacks up to eight samples.
func (r *run) window(start int64, add func(ingester, i int, chunks []series.Chunk) error) error {
	var at []int64
	vs := make([]float64, 0, series.WindowMillis/r.interval)
	last := -1
	for i := range r.series {
		s := &r.series[i]
		if s.target != last {
			at, last = r.times(at[:0], s.target, start, start+series.WindowMillis), s.target
		}
		vs = vs[:0]
		for range at {
			vs = append(vs, r.states[i].sample())
		}
		r.samples += int64(len(at))
		whole, err := encode(at, vs, 0, 0)
		if err != nil {
			return err
		}
		random := mix(s.seed, uint64(start))
		for g := range r.ingesters {
			chunks := whole
			if r.ingesters > 1 && random%50 == 0 && int(random>>32%uint64(r.ingesters)) == g {
				from := int(random >> 16 % uint64(len(at)))
				if chunks, err = encode(at, vs, from, from+8); err != nil {
					return err
				}
			}
			if err := add(g, i, chunks); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode encodes the samples, except those from index a up to b.
func encode(at []int64, vs []float64, a, b int) ([]series.Chunk, error) {
	var c series.ChunkBuilder
	for i, t := range at {
		if i >= a && i < b {
			continue
		}
		if err := c.AddFloat(t, vs[i]); err != nil {
			return nil, err
		}
	}
	c.Cut()
	return c.Done(), nil
}
