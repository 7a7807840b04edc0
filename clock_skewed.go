//go:build skewed

package main

import (
	"fmt"
	"os"
	"time"
)

// now is a clock that is off by PALLIUM_CLOCK_OFFSET, a duration. It is in binaries
// of tests only, built with the tag skewed: clocks are injected, never set.
func now() func() time.Time {
	offset, err := time.ParseDuration(os.Getenv("PALLIUM_CLOCK_OFFSET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "pallium: PALLIUM_CLOCK_OFFSET:", err)
		os.Exit(2)
	}
	return func() time.Time { return time.Now().Add(offset) }
}
