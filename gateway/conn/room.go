package conn

import (
	"net/http"
	"sync/atomic"
)

const (
	// freeHeader is how long a header may be without taking room.
	freeHeader = 16 << 10
	// headerRoom is for all longer headers together.
	headerRoom = 64 << 20
	roomStep   = 16 << 10
)

// room bounds what long headers take together, since nobody has proven anything
// while a header is read.
type room struct {
	limit int64
	used  atomic.Int64
}

func (r *room) take(n int64) bool {
	if r.used.Add(n) > r.limit {
		r.used.Add(-n)
		return false
	}
	return true
}

// reserve takes room for a header of so many bytes, and reports whether there was.
func (c *guardConn) reserve(size int64) bool {
	for size > freeHeader+c.reserved.Load() {
		if !c.room.take(roomStep) {
			return false
		}
		c.reserved.Add(roomStep)
		if c.closed.Load() {
			c.release()
			return true
		}
	}
	return true
}

// release gives the room of a header back: its request was answered, the next one
// begins, or the connection is closed.
func (c *guardConn) release() {
	if n := c.reserved.Swap(0); n > 0 {
		c.room.used.Add(-n)
	}
}

func noRoom() *Rejection {
	return &Rejection{Status: http.StatusServiceUnavailable, Reason: "header_room", Text: "too many long headers are being read: try again"}
}
