package alerts

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"
)

// item is an alert in a queue.
type item struct {
	alert   *notifier.Alert
	expires time.Time
}

// key identifies an alert by its labels.
func (i item) key() string { return string(i.alert.Labels.Bytes(nil)) }

// size returns the size of the alert in bytes.
func (i item) size() int {
	return sizeOf(i.alert.Labels) + sizeOf(i.alert.Annotations) + len(i.alert.GeneratorURL)
}

func sizeOf(ls labels.Labels) int {
	n := 0
	ls.Range(func(l labels.Label) { n += len(l.Name) + len(l.Value) })
	return n
}

// queue is a bounded queue of alerts, in which each set of labels appears at most once.
type queue struct {
	capacity, maxBytes int
	bytes              int
	order              []string // keys, from the oldest to the newest
	items              map[string]item
}

func newQueue(capacity, maxBytes int) *queue {
	return &queue{capacity: capacity, maxBytes: maxBytes, items: map[string]item{}}
}

func (q *queue) len() int { return len(q.items) }

// put adds an alert, or replaces the one with the same labels. It returns the number of alerts
// that were dropped because the queue was full: the oldest ones.
func (q *queue) put(i item) (dropped int) {
	k := i.key()
	if old, ok := q.items[k]; ok {
		q.bytes -= old.size()
	} else {
		q.order = append(q.order, k)
	}
	q.items[k] = i
	q.bytes += i.size()
	return q.shrink()
}

func (q *queue) shrink() (dropped int) {
	for len(q.items) > q.capacity || q.bytes > q.maxBytes {
		q.remove(q.order[0])
		q.order = q.order[1:]
		dropped++
	}
	return dropped
}

func (q *queue) remove(k string) item {
	i := q.items[k]
	q.bytes -= i.size()
	delete(q.items, k)
	return i
}

// take removes alerts, the oldest first, until it has n that are not expired. It returns these, and the number of expired ones.
func (q *queue) take(n int, now time.Time) (batch []item, expired int) {
	for len(q.order) > 0 && len(batch) < n {
		i := q.remove(q.order[0])
		q.order = q.order[1:]
		if i.expires.After(now) {
			batch = append(batch, i)
		} else {
			expired++
		}
	}
	return batch, expired
}

// putBack returns alerts of take to the beginning of the queue, except those that were replaced
// meanwhile. It returns the number of alerts that were dropped because the queue was full.
func (q *queue) putBack(batch []item) (dropped int) {
	order := make([]string, 0, len(batch)+len(q.order))
	for _, i := range batch {
		k := i.key()
		if _, newer := q.items[k]; newer {
			continue
		}
		q.items[k] = i
		q.bytes += i.size()
		order = append(order, k)
	}
	q.order = append(order, q.order...)
	return q.shrink()
}
