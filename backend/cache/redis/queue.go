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
	// A tenant may use at most 1/queueShare of the queue's values and bytes.
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

// load is a number of queued values and their bytes.
type load struct{ values, bytes int }

// queue holds the values that wait to be written, in the order in which they were added.
type queue struct {
	most  int           // bytes
	ready chan struct{} // receives when items were added

	mu       sync.Mutex
	items    []item
	total    load
	byTenant map[tenant.ID]load
	closed   bool
}

func newQueue(bytes int) *queue {
	return &queue{most: bytes, ready: make(chan struct{}, 1), byTenant: map[tenant.ID]load{}}
}

// size returns the bytes in the queue.
func (q *queue) size() float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return float64(q.total.bytes)
}

// add adds a value and returns "". If it drops the value, it returns the reason: the value of
// label `result` of `pallium_results_cache_redis_puts_total`.
func (q *queue) add(i item) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	mine, n := q.byTenant[i.id], i.bytes()
	switch {
	case q.closed:
		return closed
	case q.total.values >= queueValues || q.total.bytes+n > q.most:
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

// grow adds numbers, which may be negative, to the load of the queue and of a tenant.
func (q *queue) grow(id tenant.ID, values, bytes int) {
	q.total.values += values
	q.total.bytes += bytes
	mine := q.byTenant[id]
	mine.values += values
	mine.bytes += bytes
	if mine.values == 0 {
		delete(q.byTenant, id)
		return
	}
	q.byTenant[id] = mine
}

// take waits for values and returns them, but not more than `most`, or nil when ctx ends. They
// count as queued until done is called.
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

// first removes and returns the first items, but not more than `most`.
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

// close drops the values that still wait and returns their number. After close, add drops every
// value.
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
