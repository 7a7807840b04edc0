package split

import "time"

// Times are the times of a range query.
type Times struct {
	Start, End time.Time
	Step       time.Duration
}
