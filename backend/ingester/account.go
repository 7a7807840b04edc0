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

// The head counts what it takes of memory as it grows: series with their place
// in the index, chunks with their capacity, out-of-order samples, metadata,
// exemplars and places. What each costs was measured (TestCountedIsHeap);
// requests, answers and what a seal writes are not the head's.
const (
	structBytes   = int64(unsafe.Sizeof(memSeries{}))
	chunkBytes    = int64(unsafe.Sizeof(series.Chunk{}))
	sampleBytes   = int64(unsafe.Sizeof(series.Sample{}))
	floatBytes    = int64(unsafe.Sizeof(floatSample{}))
	rareBytes     = int64(unsafe.Sizeof(rareState{}))
	exemplarBytes = int64(unsafe.Sizeof(storedExemplar{}))

	// mapBytes is an entry of 16 bytes in a map, which is half full on average.
	mapBytes = 30
	// tenantBytes is a tenant without anything.
	tenantBytes = int64(unsafe.Sizeof(tenantHead{})) + 200
	// openBytes is an open chunk of floats and its appender, without the buffer.
	openBytes = 80
	// freshBytes is the buffer that a chunk begins with.
	freshBytes = 128
	// budgetBytes is a chunkBudget with its map, and budgetWindow one of its windows.
	budgetBytes, budgetWindow = 200, 56
	// postingsBytes are empty postings, refBytes a reference in one of their lists,
	// valueBytes a value of a label that is new to them.
	postingsBytes, refBytes, valueBytes = 76_000, 12, 92
	// metadataBytes is an entry of metadata without its strings.
	metadataBytes = 120
	// placeBytes is a place of a series that is not there.
	placeBytes = 40
)

// account is the counted memory of all tenants together.
type account struct {
	bytes       atomic.Int64
	established atomic.Int64 // part of bytes: series beyond their share
	tenants     atomic.Int64 // with series
	places      atomic.Int64 // series that have one
	held        atomic.Int64 // by places, and not part of bytes: what their series will need
	freed       atomic.Int64 // by seals and removals of series, ever
}

// grow counts n more bytes of the tenant, or fewer.
func (th *tenantHead) grow(n int64) {
	if n == 0 {
		return
	}
	th.bytes.Add(n)
	th.account.bytes.Add(n)
}

// shrink counts bytes that a seal or a removal freed.
func (th *tenantHead) shrink(n int64) {
	th.grow(-n)
	th.account.freed.Add(n)
}

// settle brings what is counted for a series in line with what it takes, and
// returns by how much that grew. The caller holds s.mu, and gives the growth to
// grow. A series of floats whose buffer did not grow is passed by.
func (th *tenantHead) settle(s *memSeries) int64 {
	if s.rare == nil && s.in.OpenCap() == int(s.countedOpen) && len(s.in.Done()) == int(s.countedDone) && s.budget.Load() == nil {
		return 0
	}
	return th.settleWhole(s)
}

// settleWhole is settle after a change of any kind.
func (th *tenantHead) settleWhole(s *memSeries) int64 {
	size := s.size()
	n := size - s.counted
	s.counted, s.countedOpen, s.countedDone = size, int32(s.in.OpenCap()), int32(len(s.in.Done()))
	if s.established {
		th.account.established.Add(n)
	}
	return n
}

// expectChunk counts the first chunk of a new series, which nobody else has yet,
// before it has one: or a request with many would not meet the bounds of a full
// head. The next settle sets it right.
func (th *tenantHead) expectChunk(s *memSeries) {
	const n = openBytes + freshBytes
	s.counted, s.countedOpen = s.counted+n, freshBytes
	if s.established {
		th.account.established.Add(n)
	}
	th.grow(n)
}

// recountSeries counts a series again that a seal changed.
func (th *tenantHead) recountSeries(s *memSeries) {
	s.mu.Lock()
	n := th.settleWhole(s)
	s.mu.Unlock()
	th.shrink(-n)
}

// size is what a series takes in memory, without its place in the index. The
// caller holds s.mu.
func (s *memSeries) size() int64 {
	n := s.bareSize() + sizeOf(s.in.Done()) + s.openSize()
	if b := s.budget.Load(); b != nil {
		n += budgetBytes + budgetWindow*int64(len(b.windows))
	}
	return n + s.rare.size()
}

// bareSize is what a series takes without any sample.
func (s *memSeries) bareSize() int64 { return structBytes + mapBytes + allocated(s.labels.ByteSize()) }

// openSize is what the open chunk takes.
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

// size is what out-of-order samples and chunks being sealed take.
func (r *rareState) size() int64 {
	if r == nil {
		return 0
	}
	return rareBytes + floatBytes*int64(cap(r.late)) + sampleBytes*int64(cap(r.lateHist)) + r.lateBytes +
		sizeOf(r.chunks.list) + latePartBytes*int64(len(r.chunks.parts)) + sizeOf(r.sealing)
}

// sizeOf is what closed chunks take in memory.
func sizeOf(chunks []series.Chunk) int64 {
	n := chunkBytes * int64(cap(chunks))
	for i := range chunks {
		n += int64(cap(chunks[i].Data))
	}
	return n
}

// appenderSize is what the appender of an open chunk of native histograms takes
// for the layout of its last sample: spans, and two numbers for a bucket.
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

// sampleSize is what a sample's histogram takes beside the sample.
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

// allocated is what a string takes: Go rounds sizes up.
func allocated(n uint64) int64 { return int64(n+15) &^ 15 }

// postingsSize is what a series adds to postings that do not have it yet. Values
// that only this series has cost most.
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
