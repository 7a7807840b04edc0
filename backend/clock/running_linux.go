package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Running returns a function that returns the time since this call. It uses a clock
// that cannot be set and, unlike the monotonic clock of package time, continues
// while the machine is suspended.
func Running() func() time.Duration {
	start := time.Now()
	var first unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &first); err != nil {
		return func() time.Duration { return time.Since(start) }
	}
	return func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return time.Since(start) // does not happen if the first call succeeded
		}
		return time.Duration(now.Nano() - first.Nano())
	}
}
