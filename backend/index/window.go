package index

import "github.com/palliumhq/pallium/backend/series"

// Window is one aligned window of a UTC day.
type Window struct {
	Day    int64
	Number int // 0 to 11
}

// WindowOf returns the window that contains t (Unix milliseconds).
func WindowOf(t int64) Window {
	return Window{Day: series.Day(t), Number: int(t-series.Day(t)*series.DayMillis) / int(series.WindowMillis)}
}
