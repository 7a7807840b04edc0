package series

import "time"

// Samples are divided by their timestamps into aligned windows, and the samples
// of a series in a window into aligned sub-chunks. Because of the alignment the
// chunks of all replicas end at the same times, so that most are equal byte for
// byte when they are compacted.
const (
	WindowMillis   = int64(2 * time.Hour / time.Millisecond)
	SubChunkMillis = int64(30 * time.Minute / time.Millisecond)
	DayMillis      = int64(24 * time.Hour / time.Millisecond)

	// MaxChunkSamples is the maximum number of samples in a chunk: the header
	// of XOR chunks has 16 bits for it.
	MaxChunkSamples = 30_000
)

// WindowStart returns the start in Unix milliseconds of the window that
// contains t.
func WindowStart(t int64) int64 { return floor(t, WindowMillis) }

// SubChunkStart returns the start in Unix milliseconds of the sub-chunk that
// contains t.
func SubChunkStart(t int64) int64 { return floor(t, SubChunkMillis) }

// Day returns the UTC day that contains t (Unix milliseconds), in days since
// 1970-01-01.
func Day(t int64) int64 { return floor(t, DayMillis) / DayMillis }

// DateOf returns the date of a day, as Day counts it, in the form 2026-11-30: the form in
// which the command line takes and prints days.
func DateOf(day int64) string { return time.UnixMilli(day * DayMillis).UTC().Format(time.DateOnly) }

func floor(t, unit int64) int64 {
	r := t % unit
	if r < 0 {
		r += unit
	}
	return t - r
}
