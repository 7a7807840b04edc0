package series

import "math"

// HeadStats describes the samples of a tenant that ingesters have in memory.
type HeadStats struct {
	Chunks           int64 // closed and open ones
	MinTime, MaxTime int64 // Unix milliseconds; MinTime is greater than MaxTime without chunks
}

// NoHead returns the HeadStats of a tenant without samples in memory.
func NoHead() HeadStats { return HeadStats{MinTime: math.MaxInt64, MaxTime: math.MinInt64} }

// Extend extends the time range to include the time range of another head.
func (h *HeadStats) Extend(o HeadStats) {
	h.MinTime, h.MaxTime = min(h.MinTime, o.MinTime), max(h.MaxTime, o.MaxTime)
}
