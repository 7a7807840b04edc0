package conn

import (
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// freeHeader is the size up to which a header reserves no memory.
	freeHeader = 16 << 10
	// headerMemory bounds the memory of all longer headers together.
	headerMemory = 64 << 20
	budgetStep   = 16 << 10
)

// headerBudget bounds the memory of all long headers, because clients are not authenticated while
// a header is read.
type headerBudget struct {
	limit int64
	used  atomic.Int64
}

func (r *headerBudget) take(n int64) bool {
	if r.used.Add(n) > r.limit {
		r.used.Add(-n)
		return false
	}
	return true
}

// reserve reserves memory for a header of `size` bytes, and reports whether it succeeded.
func (c *guardConn) reserve(size int64) bool {
	for size > freeHeader+c.reserved.Load() {
		if !c.headerBudget.take(budgetStep) {
			return false
		}
		c.reserved.Add(budgetStep)
		if c.closed.Load() {
			c.release()
			return true
		}
	}
	return true
}

// release releases the memory of a header. It is called when the response was sent, when
// the next request begins, or when the connection is closed.
func (c *guardConn) release() {
	if n := c.reserved.Swap(0); n > 0 {
		c.headerBudget.used.Add(-n)
	}
}

func noHeaderMemory() *Rejection {
	return &Rejection{Status: http.StatusServiceUnavailable, Reason: "header_memory", Retry: time.Second,
		Text: "too many requests with long headers are in progress: try again later, or send shorter headers"}
}
