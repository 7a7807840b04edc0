package ingester

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	// diskReserve stays free in addition to the estimate for a seal: for indexes of
	// packs, sealed.json and a few small files.
	diskReserve = 2 << 20
	// diskBytes and diskAge limit the use of a measurement of free space, by the
	// bytes appended to the log since and by its age.
	diskBytes = 256 << 10
	diskAge   = 100 * time.Millisecond
	// logFactor is how many times larger samples may be in packs than in the log.
	logFactor = 2
	// diskPlenty is the free space beyond the reserve above which pushes are admitted
	// without an estimate of their size.
	diskPlenty = 1 << 30
)

// diskGuard reserves disk space for sealing the head. Log segments can only be
// deleted after a seal, so a disk that the log filled would stay full forever.
type diskGuard struct {
	ing  *Ingester
	free func(dir string) (int64, error)

	reading  atomic.Bool
	readAt   atomic.Int64 // time of the last measurement, Unix nanoseconds; 0 = never
	appended atomic.Int64 // bytes appended to the log at the last measurement
	left     atomic.Int64 // bytes free at the last measurement; -1 = unknown
	pending  atomic.Int64 // approximate bytes of pushes in progress
	unsealed atomic.Int64 // bytes that a seal would write, when the head was last measured
	measured atomic.Int64 // bytes appended to the log, without pushes in progress, when the head was last measured
	metadata atomic.Int64 // bytes of all metadata at the last recount
}

func newDiskGuard(ing *Ingester) *diskGuard {
	g := &diskGuard{ing: ing, free: ing.opts.DiskFree}
	if g.free == nil {
		g.free = freeBytes
	}
	g.left.Store(-1)
	return g
}

// begin measures the replayed head and registers the metrics. The log must be open.
func (g *diskGuard) begin(reg prometheus.Registerer) {
	g.measure()
	auto := promauto.With(reg)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ingester_disk_free_bytes",
		Help: "Bytes free on the file system of the log and the local packs; -1 if unknown."},
		func() float64 { g.readFree(); return float64(g.left.Load()) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ingester_disk_reserve_bytes",
		Help: "Bytes that must stay free to seal the head; pushes that would leave less are rejected."},
		func() float64 { return float64(g.reserve()) })
}

// freeBytes returns the bytes that an unprivileged process can still write to the
// file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // Bsize is an int32 on darwin
}

// reserve estimates the bytes needed to seal the whole head, with a margin. It uses
// the smaller of two bounds: twice the size of the log (histograms that change much
// are larger in chunks than in the log), and 5/4 of the measured head plus twice the
// bytes logged since. It adds twice the metadata, and diskReserve.
func (g *diskGuard) reserve() int64 {
	head := g.unsealed.Load()
	byHead := head + head/4 + logFactor*(g.ing.log.Appended()-g.measured.Load())
	return min(logFactor*g.ing.log.Bytes(), byHead) + 2*g.metadata.Load() + diskReserve
}

// readFree reads the free space, unless another goroutine is doing so.
func (g *diskGuard) readFree() {
	if !g.reading.CompareAndSwap(false, true) {
		return
	}
	defer g.reading.Store(false)
	appended := g.ing.log.Appended()
	left, err := g.free(g.ing.opts.Dir)
	if err != nil {
		if g.left.Swap(-1) != -1 {
			g.ing.opts.Logger.Error("failed to read the free disk space: no space is reserved for sealing", "err", err)
		}
	} else {
		g.left.Store(left)
	}
	g.appended.Store(appended)
	g.readAt.Store(g.ing.opts.Now().UnixNano())
}

// available returns about how many bytes are free; ok is false if unknown.
func (g *diskGuard) available() (left int64, ok bool) {
	age := g.ing.opts.Now().UnixNano() - g.readAt.Load()
	if age < 0 || age >= diskAge.Nanoseconds() || g.ing.log.Appended()-g.appended.Load() >= diskBytes {
		g.readFree()
	}
	left = g.left.Load()
	if left < 0 {
		return 0, false
	}
	return left - (g.ing.log.Appended() - g.appended.Load()), true
}

// admit checks whether there is disk space for a push. The caller passes the returned
// bytes to the method done when the push is logged or has failed.
func (g *diskGuard) admit(b *series.Batch) (int64, error) {
	left, ok := g.available()
	if !ok {
		return 0, nil
	}
	reserve := g.reserve()
	if left-reserve > diskPlenty {
		return 0, nil
	}
	// Logged samples use disk space and also increase the reserve.
	size := recordBytes(b) * (1 + logFactor)
	if left-g.pending.Add(size) < reserve {
		g.done(size)
		return 0, fmt.Errorf("%w: %d bytes are free and %d are reserved for sealing the head; "+
			"writes are accepted again automatically once the head is sealed, local packs are compacted "+
			"or other files are removed", ErrDiskFull, max(left, 0), reserve)
	}
	return size, nil
}

func (g *diskGuard) done(size int64) { g.pending.Add(-size) }

// near reports whether so little disk space is free that the head should be sealed.
// It measures the head if a first estimate says that this may be the case.
func (g *diskGuard) near() bool {
	g.readFree()
	left := g.left.Load()
	if left < 0 || left >= 2*logFactor*g.ing.log.Bytes()+4*g.metadata.Load()+2*diskReserve {
		return false
	}
	g.measure()
	reserve := g.reserve()
	return left < reserve+reserve/2
}

// measure estimates the bytes that a seal of the whole head would write.
func (g *diskGuard) measure() {
	// Pushes in progress may be logged already but not applied to the head yet.
	appended, pending, total := g.ing.log.Appended(), g.pending.Load(), int64(0)
	for _, th := range g.ing.heads() {
		th.each(func(s *memSeries) { total += s.unsealedBytes() })
	}
	g.unsealed.Store(total)
	g.measured.Store(appended - pending)
}

// chunkIndex is the approximate maximum number of bytes that a pack uses per chunk
// in addition to the data.
const chunkIndex = 32

// unsealedBytes returns about how many bytes the series will use in a pack.
func (s *memSeries) unsealedBytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, chunks := int64(s.in.OpenBytes()), 1
	s.eachClosed(func(c *series.Chunk) {
		n += int64(len(c.Data))
		chunks++
	})
	if s.rare != nil {
		n += 16 * int64(len(s.rare.late))
		for i := range s.rare.lateHist {
			n += histogramBytes(&s.rare.lateHist[i])
		}
		chunks += s.rare.waiting()
	}
	if n == 0 {
		return 0
	}
	return n + int64(chunks)*chunkIndex + int64(s.labels.ByteSize()) + chunkIndex
}

// recordBytes returns about how many bytes a batch uses in the log if all its
// series are new there.
func recordBytes(b *series.Batch) int64 {
	n := int64(len(b.Tenant)) + 64
	for i := range b.Entries {
		e := &b.Entries[i]
		n += int64(e.Labels.ByteSize()) + 16 + 20*int64(len(e.Samples))
		for j := range e.Samples {
			n += histogramBytes(&e.Samples[j])
		}
	}
	for i := range b.Metadata {
		m := &b.Metadata[i]
		n += int64(len(m.Metric)+len(m.Unit)+len(m.Help)) + 32
	}
	return n
}

// histogramBytes returns about how many bytes a sample's histogram uses in the log.
func histogramBytes(s *series.Sample) int64 {
	const fixed, span, delta, float = 64, 6, 5, 8
	switch {
	case s.H != nil:
		h := s.H
		return fixed + int64(span*(len(h.PositiveSpans)+len(h.NegativeSpans))+
			delta*(len(h.PositiveBuckets)+len(h.NegativeBuckets))+float*len(h.CustomValues))
	case s.FH != nil:
		h := s.FH
		return fixed + int64(span*(len(h.PositiveSpans)+len(h.NegativeSpans))+
			float*(len(h.PositiveBuckets)+len(h.NegativeBuckets)+len(h.CustomValues)))
	}
	return 0
}
