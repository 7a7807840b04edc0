package kit

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// failing is a testing.TB that records its failure.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// fails returns the message with which wait fails its test; empty if it does not.
func fails(t *testing.T, wait func(t testing.TB)) string {
	t.Helper()
	f := &failing{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait(f)
	}()
	Receive(t, "the wait ends", done)
	return f.text
}

// TestUntilAndEventually checks that a wait ends when its event happens, and otherwise fails its
// test and names the event.
func TestUntilAndEventually(t *testing.T) {
	third := func() func() bool {
		n := 0
		return func() bool { n++; return n == 3 }
	}
	tests := []struct {
		name string
		wait func(t testing.TB)
		want string // part of the failure; empty: none
	}{
		{"event happens", func(t testing.TB) { Until(t, "third", third()) }, ""},
		{"event happens later", func(t testing.TB) { UntilSlow(t, time.Minute, "third", third()) }, ""},
		{"event never happens", func(t testing.TB) { UntilSlow(t, 0, "pigs fly", func() bool { return false }) }, "not after 0s: pigs fly"},
		{"error, then none", func(t testing.TB) {
			ok := third()
			Eventually(t, time.Minute, func() error {
				if !ok() {
					return errors.New("not yet")
				}
				return nil
			})
		}, ""},
		{"always an error", func(t testing.TB) { Eventually(t, 0, func() error { return errors.New("not yet") }) }, "after 0s: not yet"},
		{"checked at least once", func(t testing.TB) { Eventually(t, 0, func() error { return nil }) }, ""},
	}
	for _, tt := range tests {
		if got := fails(t, tt.wait); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
			t.Errorf("%s: failure %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestReceive(t *testing.T) {
	c := make(chan int, 1)
	c <- 7
	if got := Receive(t, "a value", c); got != 7 {
		t.Errorf("received %d, want 7", got)
	}
	close(c)
	if got := Receive(t, "the end", c); got != 0 {
		t.Errorf("received %d from a closed channel, want 0", got)
	}
}

// TestConcurrentUse checks that a clock and a buffer are safe for concurrent use.
func TestConcurrentUse(t *testing.T) {
	clock, buffer := NewClock(time.Unix(100, 0)), &Buffer{}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				clock.Advance(time.Second)
				_, _ = buffer.Write([]byte("x"))
				_, _ = clock.Now(), buffer.String()
			}
		})
	}
	wg.Wait()
	if clock.Now() != time.Unix(1100, 0) || buffer.String() != strings.Repeat("x", 1000) {
		t.Errorf("clock %s, buffer of %d", clock.Now(), len(buffer.String()))
	}
}

func TestFreeAddr(t *testing.T) {
	l, err := net.Listen("tcp", FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
