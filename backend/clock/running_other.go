//go:build !linux

package clock

import "time"

// Running returns a function that returns the time since this call. It uses a clock
// that cannot be set.
func Running() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
