//go:build !linux

package clock

import "time"

// Running returns a clock of the time since this call that nobody can set.
func Running() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
