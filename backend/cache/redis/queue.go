package redis

import (
	"context"
	"sync"

	"github.com/palliumhq/pallium/authn/tenant"
)

const (
	// queueValues bounds the values that wait to be written, including those that are being
	// written.
	queueValues = 4096
	// queueShare is the divisor of values and bytes for one tenant: one that stores much leaves room for
	// the others.
	queueShare = 4
	// itemBytes is the approximate memory of a queued value in addition to its key and value.
	itemBytes = 200
)

// item is a value that is to be written.
type item struct {
	id    tenant.ID
	key   string
	value []byte
}

func (i *item) bytes() int { return len(i.key) + cap(i.value) + itemBytes }

// load is how much is queued.
type load struct{ values, bytes int }

// queue has the values that wait to be written, first in, first out.
type queue struct {
	most  int           // bytes
	ready chan struct{} // has an element if items may not be empty

	mu     sync.Mutex
	items  []item
	all    load
	of     map[tenant.ID]load
	closed bool
}

func newQueue(bytes int) *queue {
	return &queue{most: bytes, ready: make(chan struct{}, 1), of: map[tenant.ID]load{}}
}

// size returns the bytes in the queue.
func (q *queue) size() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.all.bytes)
}

// add adds a value and returns "", or returns why it did not.
func (q *queue) add(i item) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	mine, n := q.of[i.id], i.bytes()
	switch {
	case q.closed:
		return closed
	case q.all.values >= queueValues || q.all.bytes+n > q.most:
		return queueFull
	case mine.values >= queueValues/queueShare || mine.bytes+n > q.most/queueShare:
		return tenantShare
	}
	q.items = append(q.items, i)
	q.grow(i.id, 1, n)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return ""
}

func (q *queue) grow(id tenant.ID, values, bytes int) {
	q.all.values += values
	q.all.bytes += bytes
	mine := q.of[id]
	mine.values += values
	mine.bytes += bytes
	if mine.values == 0 {
		delete(q.of, id)
		return
	}
	q.of[id] = mine
}

// take waits for values and returns up to most of them, or nil when ctx ends. They count as
// queued until done is called.
func (q *queue) take(ctx context.Context, most int) []item {
	for {
		if ctx.Err() != nil {
			return nil
		}
		if items := q.first(most); len(items) > 0 {
			return items
		}
		select {
		case <-ctx.Done():
		case <-q.ready:
		}
	}
}

func (q *queue) first(most int) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(most, len(q.items))
	out := append([]item(nil), q.items[:n]...)
	clear(q.items[:n]) // releases the values
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	}
	return out
}

// done releases the space of values that take returned.
func (q *queue) done(items []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range items {
		q.grow(items[i].id, -1, -items[i].bytes())
	}
}

// close empties the queue, which accepts no more values, and returns how many were left.
func (q *queue) close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.items)
	for i := range q.items {
		q.grow(q.items[i].id, -1, -q.items[i].bytes())
	}
	q.items, q.closed = nil, true
	return n
}
