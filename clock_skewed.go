//go:build skewed

package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

// now returns a clock that is off by the duration in PALLIUM_CLOCK_OFFSET. It exists only in test
// binaries, which are built with the tag skewed, so that tests need not set the machine's clock. If
// PALLIUM_CLOCK_SPEED is set, the clock runs faster than the machine's by this factor since
// PALLIUM_CLOCK_BASE (Unix milliseconds).
func now() func() time.Time {
	offset, err := time.ParseDuration(os.Getenv("PALLIUM_CLOCK_OFFSET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "pallium: PALLIUM_CLOCK_OFFSET:", err)
		os.Exit(2)
	}
	if speed, err := strconv.ParseFloat(os.Getenv("PALLIUM_CLOCK_SPEED"), 64); err == nil {
		base, err := strconv.ParseInt(os.Getenv("PALLIUM_CLOCK_BASE"), 10, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, "pallium: PALLIUM_CLOCK_BASE:", err)
			os.Exit(2)
		}
		from := time.UnixMilli(base)
		return func() time.Time { return from.Add(time.Duration(float64(time.Since(from))*speed) + offset) }
	}
	return func() time.Time { return time.Now().Add(offset) }
}
