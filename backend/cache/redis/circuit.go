package redis

import (
	"sync"
	"time"
)

const (
	// failuresToOpen is how many consecutive failures open a circuit.
	failuresToOpen = 3
	// openFor is how long an open circuit allows no call. After that it allows one call
	// per openFor, until one succeeds.
	openFor = time.Second
)

// circuit stops calls to a server that does not respond, so that queries do not wait for it.
type circuit struct {
	now func() time.Time

	mu       sync.Mutex
	failures int       // consecutive
	until    time.Time // no call is allowed before
}

// allow reports whether a call may be made.
func (c *circuit) allow() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures < failuresToOpen {
		return true
	}
	now := c.now()
	if now.Before(c.until) {
		return false
	}
	c.until = now.Add(openFor)
	return true
}

// record records the outcome of a call, and reports whether it opened the circuit.
func (c *circuit) record(ok bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok {
		c.failures = 0
		return false
	}
	c.failures = min(c.failures+1, failuresToOpen+1) // bounded
	if c.failures != failuresToOpen {
		return false
	}
	c.until = c.now().Add(openFor)
	return true
}
