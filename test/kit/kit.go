// Package kit contains helpers for the tests of all packages: a clock that tests move,
// waiting with a deadline, a buffer for logs that are read while they are written, and
// free addresses. It imports nothing of the project, so that every package's tests can
// use it. Processes are in kit/programs, whole clusters in kit/cluster, and fakes of
// the project's own interfaces in kit/fake.
package kit

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Patience is how long tests wait for an event that should happen at once. It is long
// because test machines are busy.
const Patience = time.Minute

// Clock is a time that tests move. It is safe for concurrent use.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock returns a clock that shows t.
func NewClock(t time.Time) *Clock { return &Clock{t: t} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Advance moves the clock by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Buffer is a log that a test reads while it is written.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns the text written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Until calls the function `ok` every millisecond until it returns true. On timeout, Until fails
// the test with the text `what`, the event that did not happen.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	until(t, Patience, time.Millisecond, what, ok)
}

// UntilSlow is Until for events that take longer, or whose check is expensive.
func UntilSlow(t testing.TB, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	until(t, timeout, 100*time.Millisecond, what, ok)
}

func until(t testing.TB, timeout, every time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(timeout); !ok(); time.Sleep(every) {
		if time.Now().After(deadline) {
			t.Fatalf("not after %s: %s", timeout, what)
		}
	}
}

// Eventually repeats check until it returns nil; after the timeout it fails the test
// with the last error.
func Eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	err := check()
	for deadline := time.Now().Add(timeout); err != nil; err = check() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", timeout, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Receive waits for a value from c, or until c is closed, and returns the value. On timeout it
// fails the test with the text `what`, the event that did not happen.
func Receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(Patience):
		t.Fatalf("not after %s: %s", Patience, what)
		panic("unreachable")
	}
}

// FreeAddr returns an address of the loopback interface on which nothing listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + port
}
