package series

import "time"

// Samples are cut by their own timestamps into aligned windows; a window's
// samples of one series are cut again into aligned sub-chunks. Alignment makes
// the chunks of all replicas end at the same points, so that compaction finds
// most of them equal byte for byte.
const (
	WindowMillis   = int64(2 * time.Hour / time.Millisecond)
	SubChunkMillis = int64(30 * time.Minute / time.Millisecond)
	DayMillis      = int64(24 * time.Hour / time.Millisecond)

	// MaxChunkSamples caps a sub-chunk: an XOR chunk counts in 16 bits.
	MaxChunkSamples = 30_000
)

// WindowStart is the start in Unix milliseconds of the window that holds t.
func WindowStart(t int64) int64 { return floor(t, WindowMillis) }

// SubChunkStart is the start of the sub-chunk that holds t.
func SubChunkStart(t int64) int64 { return floor(t, SubChunkMillis) }

// Day is the UTC day number that holds t.
func Day(t int64) int64 { return floor(t, DayMillis) / DayMillis }

func floor(t, unit int64) int64 {
	r := t % unit
	if r < 0 {
		r += unit
	}
	return t - r
}
