package ingester

import (
	"context"
	"sync/atomic"
	"unsafe"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/palliumhq/pallium/backend/series"
)

// The head counts the memory that it uses as it grows: series with their index
// entries, chunks with their capacity, out-of-order samples, metadata, exemplars
// and reserved series. The costs below were measured (TestCountedIsHeap). Requests,
// responses and the buffers of seals are not counted here.
const (
	structBytes   = int64(unsafe.Sizeof(memSeries{}))
	chunkBytes    = int64(unsafe.Sizeof(series.Chunk{}))
	sampleBytes   = int64(unsafe.Sizeof(series.Sample{}))
	floatBytes    = int64(unsafe.Sizeof(floatSample{}))
	rareBytes     = int64(unsafe.Sizeof(rareState{}))
	exemplarBytes = int64(unsafe.Sizeof(storedExemplar{}))

	// mapBytes is the average cost of a 16-byte entry in a map.
	mapBytes = 30
	// tenantBytes is the cost of a tenant without any data.
	tenantBytes = int64(unsafe.Sizeof(tenantHead{})) + 200
	// openBytes is the cost of an open chunk of floats and its appender, without the
	// buffer.
	openBytes = 80
	// freshBytes is the initial size of a chunk's buffer.
	freshBytes = 128
	// budgetBytes is the cost of a chunkBudget with its map, and budgetWindow the
	// cost of one of its windows.
	budgetBytes, budgetWindow = 200, 56
	// postingsBytes is the cost of empty postings, refBytes of a reference in one
	// postings list, valueBytes of a label value that the postings do not have yet.
	postingsBytes, refBytes, valueBytes = 76_000, 12, 92
	// metadataBytes is the cost of a metadata entry without its strings.
	metadataBytes = 120
	// reservationBytes is the cost of one reserved series.
	reservationBytes = 40
)

// account is the counted memory of all tenants.
type account struct {
	bytes       atomic.Int64
	established atomic.Int64 // part of bytes: established series that were accepted over a limit
	tenants     atomic.Int64 // tenants with series
	reserved    atomic.Int64 // reserved series
	held        atomic.Int64 // bytes reserved for reserved series; not part of bytes
	freed       atomic.Int64 // total of the bytes passed to tenantHead.shrink
}

// grow adds n bytes, which may be negative, to the tenant's count.
func (th *tenantHead) grow(n int64) {
	if n == 0 {
		return
	}
	th.bytes.Add(n)
	th.account.bytes.Add(n)
}

// shrink subtracts n bytes and counts them as freed.
func (th *tenantHead) shrink(n int64) {
	th.grow(-n)
	th.account.freed.Add(n)
}

// updateSize updates the counted size of a series and returns the change. The caller
// holds s.mu and passes the change to th.grow. The fast path is for series of floats
// without out-of-order samples that neither closed a chunk nor grew its buffer.
func (th *tenantHead) updateSize(s *memSeries) int64 {
	if s.rare == nil && s.in.OpenCap() == int(s.countedOpen) && len(s.in.Done()) == int(s.countedDone) && s.budget.Load() == nil {
		return 0
	}
	return th.updateSizeFull(s)
}

// updateSizeFull is updateSize without the fast path.
func (th *tenantHead) updateSizeFull(s *memSeries) int64 {
	size := s.size()
	n := size - s.counted
	s.counted, s.countedOpen, s.countedDone = size, int32(s.in.OpenCap()), int32(len(s.in.Done()))
	if s.established {
		th.account.established.Add(n)
	}
	return n
}

// expectChunk counts the first chunk of a new series, which no other goroutine can
// see yet, before the chunk exists. Otherwise one request with many new series
// could exceed the limits of a full head. The next updateSize corrects the count.
func (th *tenantHead) expectChunk(s *memSeries) {
	const n = openBytes + freshBytes
	s.counted, s.countedOpen = s.counted+n, freshBytes
	if s.established {
		th.account.established.Add(n)
	}
	th.grow(n)
}

// recountSeries updates the counted size of a series after a seal or a replay
// changed it.
func (th *tenantHead) recountSeries(s *memSeries) {
	s.mu.Lock()
	n := th.updateSizeFull(s)
	s.mu.Unlock()
	th.shrink(-n)
}

// size returns the bytes that a series uses, without its index entries. The caller
// holds s.mu.
func (s *memSeries) size() int64 {
	n := s.bareSize() + sizeOf(s.in.Done()) + s.openSize()
	if b := s.budget.Load(); b != nil {
		n += budgetBytes + budgetWindow*int64(len(b.windows))
	}
	return n + s.rare.size()
}

// bareSize returns the bytes that a series uses without samples.
func (s *memSeries) bareSize() int64 { return structBytes + mapBytes + allocated(s.labels.ByteSize()) }

// openSize returns the bytes that the open chunk uses.
func (s *memSeries) openSize() int64 {
	n := s.in.OpenCap()
	if n == 0 {
		return 0
	}
	if b := s.budget.Load(); b != nil {
		return openBytes + int64(n) + b.appender
	}
	return openBytes + int64(n)
}

// size returns the bytes that out-of-order samples and chunks being sealed use.
func (r *rareState) size() int64 {
	if r == nil {
		return 0
	}
	return rareBytes + floatBytes*int64(cap(r.late)) + sampleBytes*int64(cap(r.lateHist)) + r.lateBytes +
		sizeOf(r.chunks.list) + latePartBytes*int64(len(r.chunks.parts)) + sizeOf(r.sealing)
}

// sizeOf returns the bytes that closed chunks use.
func sizeOf(chunks []series.Chunk) int64 {
	n := chunkBytes * int64(cap(chunks))
	for i := range chunks {
		n += int64(cap(chunks[i].Data))
	}
	return n
}

// appenderSize returns the bytes that the appender of an open chunk of native
// histograms uses for the layout of its last sample: spans, two numbers per bucket,
// and custom bounds.
func appenderSize(s *series.Sample) int64 {
	const fixed, span, bucket, bound = 200, 8, 16, 8
	switch {
	case s.H != nil:
		h := s.H
		return fixed + int64(span*(len(h.PositiveSpans)+len(h.NegativeSpans))+
			bucket*(len(h.PositiveBuckets)+len(h.NegativeBuckets))+bound*len(h.CustomValues))
	case s.FH != nil:
		h := s.FH
		return fixed + int64(span*(len(h.PositiveSpans)+len(h.NegativeSpans))+
			bucket*(len(h.PositiveBuckets)+len(h.NegativeBuckets))+bound*len(h.CustomValues))
	}
	return 0
}

// sampleSize returns the bytes of a sample's histogram, without the sample itself.
func sampleSize(s *series.Sample) int64 {
	const span, number = 8, 8
	switch {
	case s.H != nil:
		h := s.H
		return int64(unsafe.Sizeof(histogram.Histogram{})) +
			int64(span*(cap(h.PositiveSpans)+cap(h.NegativeSpans))+number*(cap(h.PositiveBuckets)+cap(h.NegativeBuckets)+cap(h.CustomValues)))
	case s.FH != nil:
		h := s.FH
		return int64(unsafe.Sizeof(histogram.FloatHistogram{})) +
			int64(span*(cap(h.PositiveSpans)+cap(h.NegativeSpans))+number*(cap(h.PositiveBuckets)+cap(h.NegativeBuckets)+cap(h.CustomValues)))
	}
	return 0
}

// allocated returns the allocated size of a string of n bytes: Go rounds sizes up.
func allocated(n uint64) int64 { return int64(n+15) &^ 15 }

// postingsSize returns the bytes that a new series adds to the postings. Label
// values that only this series has cost most.
func postingsSize(p *index.MemPostings, ls labels.Labels) int64 {
	n := int64(mapBytes + refBytes) // byRef, and the list of all
	ls.Range(func(l labels.Label) {
		n += refBytes
		if p.Postings(context.Background(), l.Name, l.Value) == index.EmptyPostings() {
			n += valueBytes
		}
	})
	return n
}
