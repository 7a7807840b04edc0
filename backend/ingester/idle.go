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

// idleTimes are the times (Unix milliseconds) since when a series must have had a
// sample to stay.
type idleTimes struct {
	since int64 // now, which is later when memory is short
	usual int64 // whoever leaves before leaves a place behind until then
}

// dropIdle takes series that hold nothing any more out of the head, and drops
// what was kept of those that left. Pushes go on meanwhile. The caller holds
// ing.sealMu.
func (ing *Ingester) dropIdle(t idleTimes) {
	metadata := int64(0)
	for _, th := range ing.heads() {
		if !ing.dropIdleOf(th, t) {
			return // stopped
		}
		th.sweepPlaces(ing.opts.Now())
		th.sweepMetadata(ing.opts.Now().Add(-metadataIdle).Unix())
		metadata += th.metadataSize()
	}
	ing.disk.metadata.Store(metadata)
}

// dropIdleOf removes a tenant's idle series in slices: a push may be holding a
// series that it found, so each slice is removed while no push is under way, and
// the series is looked at once more. It returns false when the ingester stops.
func (ing *Ingester) dropIdleOf(th *tenantHead, t idleTimes) bool {
	var idle []*memSeries
	th.each(func(s *memSeries) {
		if s.idle(t.since) {
			idle = append(idle, s)
		}
	})
	for part := range slices.Chunk(idle, sliceSeries) {
		ing.gate.Lock()
		stopped, n := ing.stopped, 0
		if !stopped {
			n = th.remove(part, t)
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
// that they are gone, until reindex. No push and no seal may be under way.
func (th *tenantHead) remove(list []*memSeries, t idleTimes) int {
	th.mu.Lock()
	defer th.mu.Unlock()
	n, freed := 0, int64(0)
	for _, s := range list {
		s.mu.Lock()
		gone, stays, last, size := s.isIdle(t.since), !s.isIdle(t.usual), s.lastT, s.counted
		s.mu.Unlock()
		if !gone || !th.unlink(s) {
			continue
		}
		n++
		freed += size
		if s.established {
			th.established--
			th.account.established.Add(-size)
		}
		if stays {
			th.leavePlace(s.hash, placeUntil(last+idleSeries.Milliseconds(), time.UnixMilli(t.usual).Add(idleSeries)))
		}
		if th.postings != nil {
			delete(th.byRef, storage.SeriesRef(s.ref))
			th.dead++
		}
	}
	th.shrink(freed)
	if th.count -= n; n > 0 && th.count == 0 {
		th.account.tenants.Add(-1)
	}
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

// reindex builds new postings and maps from the series that are there, beside
// those that are in use: maps do not become smaller by themselves, and
// MemPostings.Delete would hold their lock for long, and with it pushes of new
// series, since for each label of the removed series it copies the whole list.
// One call of reindex and remove runs at a time; lastRef returns the highest
// reference that was given out.
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
	next := newSeriesIndex(len(list))
	for part := range slices.Chunk(list, sliceSeries) {
		next.add(part)
		th.mu.RLock()
		next.chains(th, part)
		th.mu.RUnlock()
		time.Sleep(slicePause)
	}
	for !th.swapIndex(next) {
		th.mu.Lock()
		added := th.added
		th.added = nil
		next.chains(th, added)
		th.mu.Unlock()
		next.add(added)
	}
}

// swapIndex puts a new index into use, unless too many series were added since it
// was begun.
func (th *tenantHead) swapIndex(next *seriesIndex) bool {
	th.mu.Lock()
	defer th.mu.Unlock()
	if len(th.added) > sliceSeries {
		return false
	}
	next.add(th.added)
	next.chains(th, th.added)
	th.postings, th.byRef, th.series = next.postings, next.byRef, next.series
	th.added, th.reindexing, th.dead = nil, false, 0
	th.shrink(th.indexBytes - next.bytes)
	th.indexBytes = next.bytes
	return true
}

// seriesIndex is by what a tenant's series are found.
type seriesIndex struct {
	postings *index.MemPostings
	byRef    map[storage.SeriesRef]*memSeries
	series   map[uint64]*memSeries
	bytes    int64
}

func newSeriesIndex(n int) *seriesIndex {
	return &seriesIndex{
		postings: index.NewMemPostings(),
		byRef:    make(map[storage.SeriesRef]*memSeries, n),
		series:   make(map[uint64]*memSeries, n),
		bytes:    postingsBytes,
	}
}

// add takes in series.
func (x *seriesIndex) add(list []*memSeries) {
	for _, s := range list {
		x.bytes += postingsSize(x.postings, s.labels)
		x.postings.Add(storage.SeriesRef(s.ref), s.labels)
		x.byRef[storage.SeriesRef(s.ref)] = s
	}
}

// chains takes in the chains of the hashes of series as the tenant has them now.
// The caller holds th.mu.
func (x *seriesIndex) chains(th *tenantHead, list []*memSeries) {
	for _, s := range list {
		x.series[s.hash] = th.series[s.hash]
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

// recount counts every series again, after replay, which does not count as it
// goes.
func (ing *Ingester) recount() {
	metadata := int64(0)
	for _, th := range ing.heads() {
		th.each(th.recountSeries)
		metadata += th.metadataSize()
	}
	ing.disk.metadata.Store(metadata)
}
