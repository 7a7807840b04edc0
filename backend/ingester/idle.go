package ingester

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/index"
)

const (
	// sliceSeries is how many series are looked at, or removed, while a lock that a
	// push needs is held.
	sliceSeries = 1000
	// slicePause is the time between two slices, for the pushes that wait and those
	// that share the processor.
	slicePause = time.Millisecond
)

// dropIdle takes series that hold nothing any more out of the head, and counts
// the head's size again. Pushes go on meanwhile.
func (ing *Ingester) dropIdle(idleSince int64) {
	for _, th := range ing.heads() {
		if !ing.dropIdleOf(th, idleSince) {
			return // stopped
		}
	}
	ing.recount()
}

// dropIdleOf removes a tenant's idle series in slices: a push may be holding a
// series that it found, so each slice is removed while no push is under way, and
// the series is looked at once more. It returns false when the ingester stops.
func (ing *Ingester) dropIdleOf(th *tenantHead, idleSince int64) bool {
	var idle []*memSeries
	th.each(func(s *memSeries) {
		if s.idle(idleSince) {
			idle = append(idle, s)
		}
	})
	for part := range slices.Chunk(idle, sliceSeries) {
		ing.gate.Lock()
		stopped, n := ing.stopped, 0
		if !stopped {
			n = th.remove(part, idleSince)
		}
		ing.gate.Unlock()
		if stopped {
			return false
		}
		ing.metrics.seriesRemoved.Add(float64(n))
		ing.largestSlice.Store(max(ing.largestSlice.Load(), int64(n)))
		time.Sleep(slicePause)
	}
	if th.reindexDue() {
		th.reindex(ing.nextRef.Load)
	}
	return true
}

// remove takes those of the series out of the maps that are still idle, and
// returns how many. Their references stay in the postings, where byRef tells
// that they are gone, until reindex. No push may be under way.
func (th *tenantHead) remove(list []*memSeries, idleSince int64) int {
	th.mu.Lock()
	defer th.mu.Unlock()
	n := 0
	for _, s := range list {
		if !s.idle(idleSince) || !th.unlink(s) {
			continue
		}
		n++
		if th.postings != nil {
			delete(th.byRef, storage.SeriesRef(s.ref))
			th.dead++
		}
	}
	th.count -= n
	return n
}

// unlink takes a series out of the chain of its hash. The caller holds th.mu for
// writing.
func (th *tenantHead) unlink(s *memSeries) bool {
	first := th.series[s.hash]
	if first == s {
		if s.next == nil {
			delete(th.series, s.hash)
		} else {
			th.series[s.hash] = s.next
		}
		return true
	}
	for o := first; o != nil; o = o.next {
		if o.next == s {
			o.next = s.next
			return true
		}
	}
	return false
}

// reindexDue reports whether so many references in the postings are of series
// that are gone that building new ones pays.
func (th *tenantHead) reindexDue() bool {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return th.dead >= indexFrom && th.dead >= th.count/2
}

// reindex builds new postings from the series that are there, beside those
// that are in use. MemPostings.Delete would hold their lock for long, and with it
// pushes of new series: for each label of the removed series it copies the whole
// list. One call of reindex and remove runs at a time; lastRef returns the
// highest reference that was given out.
func (th *tenantHead) reindex(lastRef func() uint64) {
	th.mu.Lock()
	th.reindexing = true
	last := lastRef() // later series have higher references, and are in th.added
	th.mu.Unlock()
	var list []*memSeries
	th.each(func(s *memSeries) {
		if s.ref <= last {
			list = append(list, s)
		}
	})
	slices.SortFunc(list, func(a, b *memSeries) int { return cmp.Compare(a.ref, b.ref) })
	p := index.NewMemPostings()
	for part := range slices.Chunk(list, sliceSeries) {
		addAll(p, part)
		time.Sleep(slicePause)
	}
	for !th.swapPostings(p) {
		th.mu.Lock()
		added := th.added
		th.added = nil
		th.mu.Unlock()
		addAll(p, added)
	}
}

// swapPostings puts new postings into use, unless too many series were added
// since they were begun.
func (th *tenantHead) swapPostings(p *index.MemPostings) bool {
	th.mu.Lock()
	defer th.mu.Unlock()
	if len(th.added) > sliceSeries {
		return false
	}
	addAll(p, th.added)
	th.postings, th.added, th.reindexing, th.dead = p, nil, false, 0
	return true
}

func addAll(p *index.MemPostings, list []*memSeries) {
	for _, s := range list {
		p.Add(storage.SeriesRef(s.ref), s.labels)
	}
}

// each calls fn for every series that is there all the time. It holds th.mu for
// reading, for a slice of the series at a time: a push of new series waits for
// one slice at most.
func (th *tenantHead) each(fn func(*memSeries)) {
	th.mu.RLock()
	defer th.mu.RUnlock()
	n := 0
	for _, s := range th.series { // a map may change while it is iterated, as long as that is not at the same time
		for ; s != nil; s = s.next {
			fn(s)
			n++
		}
		if n >= sliceSeries {
			n = 0
			th.mu.RUnlock()
			th.mu.RLock()
		}
	}
}

// all returns every series, in no order.
func (th *tenantHead) all() []*memSeries {
	out := make([]*memSeries, 0, th.seriesCount())
	th.each(func(s *memSeries) { out = append(out, s) })
	return out
}

// recount sets the head's size to the sum over its series. What is pushed
// meanwhile may be counted twice until the next one, but not be left out.
func (ing *Ingester) recount() {
	before, total, metadata := ing.bytes.Load(), int64(0), int64(0)
	for _, th := range ing.heads() {
		th.each(func(s *memSeries) { total += s.size() })
		metadata += th.metadataSize()
	}
	ing.bytes.Add(total - before)
	ing.disk.metadata.Store(metadata)
}

// size is roughly what the series takes in memory.
func (s *memSeries) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return seriesOverhead + int64(s.labels.ByteSize()) + sizeOf(s.in.Done())
}
