package ingester

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/index"
)

const (
	// sliceSeries is how many series are read or removed while a lock that pushes
	// need is held.
	sliceSeries = 1000
	// slicePause is the pause between two slices, for waiting pushes and other
	// goroutines.
	slicePause = time.Millisecond
)

// idleTimes are times in Unix milliseconds: series without a sample since then are
// removed.
type idleTimes struct {
	since int64 // the time in use; later than usual when memory is short
	usual int64 // the usual time; series removed with newer samples are reserved
}

// dropIdle removes idle series without unsealed samples from the head, expired
// reservations and stale metadata. It runs concurrently with pushes. The caller
// holds ing.sealMu.
func (ing *Ingester) dropIdle(t idleTimes) {
	metadata := int64(0)
	for _, th := range ing.heads() {
		if !ing.dropIdleOf(th, t) {
			return // stopped
		}
		th.sweepReservations(ing.opts.Now())
		th.sweepMetadata(ing.opts.Now().Add(-metadataIdle).Unix())
		metadata += th.metadataSize()
	}
	ing.disk.metadata.Store(metadata)
}

// dropIdleOf removes a tenant's idle series in slices. A push may hold a series
// that it found, so each slice is removed while no push is in progress, after
// checking again that the series are idle. It returns false if the ingester stops.
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

// remove removes the series that are still idle from the maps, and returns their
// number. Their references stay in the postings until reindex; byRef does not have
// them any more. No push and no seal may be in progress.
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
			th.reserveRemoved(s.hash, reservedUntil(last+idleSeries.Milliseconds(), time.UnixMilli(t.usual).Add(idleSeries)))
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

// unlink removes a series from the chain of its hash. The caller holds th.mu for
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

// reindexDue reports whether the postings have so many references of removed series
// that they should be rebuilt.
func (th *tenantHead) reindexDue() bool {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return th.dead >= indexFrom && th.dead >= th.count/2
}

// reindex builds new postings and maps from the existing series while the old ones
// are in use. Go maps never shrink, and MemPostings.Delete would block pushes of
// new series for long: it holds its lock while it copies the whole list of each
// label of the removed series. Calls of reindex and remove must not overlap.
// lastRef returns the highest reference that was assigned.
func (th *tenantHead) reindex(lastRef func() uint64) {
	th.mu.Lock()
	th.reindexing = true
	last := lastRef() // later series have higher references and are in th.added
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

// swapIndex replaces the tenant's index by a new one, unless more than sliceSeries
// added series are not in the new one yet.
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

// seriesIndex is an index of a tenant's series.
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

// add adds series to the postings and to byRef.
func (x *seriesIndex) add(list []*memSeries) {
	for _, s := range list {
		x.bytes += postingsSize(x.postings, s.labels)
		x.postings.Add(storage.SeriesRef(s.ref), s.labels)
		x.byRef[storage.SeriesRef(s.ref)] = s
	}
}

// chains copies the current chains of the hashes of series. The caller holds th.mu.
func (x *seriesIndex) chains(th *tenantHead, list []*memSeries) {
	for _, s := range list {
		x.series[s.hash] = th.series[s.hash]
	}
}

// each calls fn for every series that exists during the whole call. It holds th.mu
// for reading, and releases it after every sliceSeries series, so that a push of
// new series waits for at most one slice.
func (th *tenantHead) each(fn func(*memSeries)) {
	th.mu.RLock()
	defer th.mu.RUnlock()
	n := 0
	for _, s := range th.series { // other goroutines may change the map while the lock is released: Go allows that
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

// all returns every series, in no particular order.
func (th *tenantHead) all() []*memSeries {
	out := make([]*memSeries, 0, th.seriesCount())
	th.each(func(s *memSeries) { out = append(out, s) })
	return out
}

// recount updates the counted memory of every series. It runs after a replay, which
// appends samples without counting them.
func (ing *Ingester) recount() {
	metadata := int64(0)
	for _, th := range ing.heads() {
		th.each(th.recountSeries)
		metadata += th.metadataSize()
	}
	ing.disk.metadata.Store(metadata)
}
