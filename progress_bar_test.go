package main

import (
	"bytes"
	"testing"
	"time"
)

// TestProgressLines checks that a line is written every ten seconds if there is no terminal.
func TestProgressLines(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	p := newProgressBar(&out, func() time.Time { return now })
	tell := p.of("verify")
	for i := range 25 {
		tell(float64(i)/25, "tenant a, day 7")
		now = now.Add(time.Second)
	}
	p.end()
	if got, want := out.String(), "verify: 40%, tenant a, day 7\nverify: 80%, tenant a, day 7\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var none *progressBar
	if none.of("x") != nil {
		t.Error("a nil bar returned a function")
	}
	none.end()
}
