//go:build skewed

package main

import (
	"fmt"
	"os"
	"time"
)

// now returns a clock that is off by the duration in PALLIUM_CLOCK_OFFSET. Only test
// binaries have it, built with the tag skewed, so that tests need not set the machine's
// clock.
func now() func() time.Time {
	offset, err := time.ParseDuration(os.Getenv("PALLIUM_CLOCK_OFFSET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "pallium: PALLIUM_CLOCK_OFFSET:", err)
		os.Exit(2)
	}
	return func() time.Time { return time.Now().Add(offset) }
}
