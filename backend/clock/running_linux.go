package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Running returns a clock of the time since this call that nobody can set. It goes
// on while the machine sleeps, which that of package time does not.
func Running() func() time.Duration {
	start := time.Now()
	var first unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &first); err != nil {
		return func() time.Duration { return time.Since(start) }
	}
	return func() time.Duration {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return time.Since(start) // a kernel that has the clock does not lose it
		}
		return time.Duration(now.Nano() - first.Nano())
	}
}
