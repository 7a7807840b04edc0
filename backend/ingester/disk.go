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
	// diskReserve is what stays free beside the room for a seal: indexes of packs,
	// sealed.json, a few small files.
	diskReserve = 2 << 20
	// diskBytes and diskAge bound how old the free space may be that a push relies
	// on: so much appended to the log, or so long.
	diskBytes = 256 << 10
	diskAge   = 100 * time.Millisecond
	// logFactor is how much more than in the log samples may take in packs.
	logFactor = 2
	// diskPlenty is room beyond the reserve at which no push is measured.
	diskPlenty = 1 << 30
)

// diskGuard keeps room on the ingester's file system for sealing what the head
// holds: only a seal lets segments of the log go, so a disk that the log filled
// would stay full for ever.
type diskGuard struct {
	ing  *Ingester
	free func(dir string) (int64, error)

	looking  atomic.Bool
	looked   atomic.Int64 // when, Unix nanoseconds; 0 = never
	appended atomic.Int64 // bytes appended to the log at that time
	left     atomic.Int64 // bytes free at that time; -1 = unknown
	pending  atomic.Int64 // bytes of pushes under way, about
	unsealed atomic.Int64 // bytes that a seal would have written when the head was last measured
	measured atomic.Int64 // bytes appended to the log at that time
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

// begin measures what was replayed and adds the metrics; the log must be open.
func (g *diskGuard) begin(reg prometheus.Registerer) {
	g.measure()
	auto := promauto.With(reg)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ingester_disk_free_bytes",
		Help: "Bytes free on the file system of the log and the local packs; -1 when that cannot be read."},
		func() float64 { g.look(); return float64(g.left.Load()) })
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ingester_disk_reserve_bytes",
		Help: "Bytes that must stay free to seal what the head holds; pushes are rejected when less would be."},
		func() float64 { return float64(g.reserve()) })
}

// freeBytes is what an unprivileged process can still write to the file system.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// reserve is about how much room a seal of everything takes, with a margin. That
// is at most twice what the log has of it (histograms that jump take more in
// chunks than in the log), and at most what was measured in the head and what was
// logged since.
func (g *diskGuard) reserve() int64 {
	head := g.unsealed.Load()
	byHead := head + head/4 + logFactor*(g.ing.log.Appended()-g.measured.Load())
	return min(logFactor*g.ing.log.Bytes(), byHead) + 2*g.metadata.Load() + diskReserve
}

// look reads the free space, unless somebody else is about to.
func (g *diskGuard) look() {
	if !g.looking.CompareAndSwap(false, true) {
		return
	}
	defer g.looking.Store(false)
	appended := g.ing.log.Appended()
	left, err := g.free(g.ing.opts.Dir)
	if err != nil {
		if g.left.Swap(-1) != -1 {
			g.ing.opts.Logger.Error("free disk space cannot be read: the reserve for sealing is not kept", "err", err)
		}
	} else {
		g.left.Store(left)
	}
	g.appended.Store(appended)
	g.looked.Store(g.ing.opts.Now().UnixNano())
}

// room is what is free now, about; ok is false when it is not known.
func (g *diskGuard) room() (left int64, ok bool) {
	age := g.ing.opts.Now().UnixNano() - g.looked.Load()
	if age < 0 || age >= diskAge.Nanoseconds() || g.ing.log.Appended()-g.appended.Load() >= diskBytes {
		g.look()
	}
	left = g.left.Load()
	if left < 0 {
		return 0, false
	}
	return left - (g.ing.log.Appended() - g.appended.Load()), true
}

// admit decides whether there is room for a push. The caller gives the returned
// bytes back to done when the push is logged or has failed.
func (g *diskGuard) admit(b *series.Batch) (int64, error) {
	left, ok := g.room()
	if !ok {
		return 0, nil
	}
	reserve := g.reserve()
	if left-reserve > diskPlenty {
		return 0, nil
	}
	// What is logged takes room, and makes the reserve larger.
	size := recordBytes(b) * (1 + logFactor)
	if left-g.pending.Add(size) < reserve {
		g.done(size)
		return 0, fmt.Errorf("%w: %d bytes are free and %d are kept for sealing what is in memory; "+
			"writes are accepted again without intervention once segments of the log are sealed, local packs are compacted, "+
			"or other files are removed", ErrDiskFull, max(left, 0), reserve)
	}
	return size, nil
}

func (g *diskGuard) done(size int64) { g.pending.Add(-size) }

// near reports whether so little is free that everything should be sealed. When
// it may be so, it measures the head.
func (g *diskGuard) near() bool {
	g.look()
	left := g.left.Load()
	if left < 0 || left >= 2*logFactor*g.ing.log.Bytes()+4*g.metadata.Load()+2*diskReserve {
		return false
	}
	g.measure()
	reserve := g.reserve()
	return left < reserve+reserve/2
}

// measure counts what a seal of everything would write.
func (g *diskGuard) measure() {
	// Pushes under way may be logged already and not be in the head yet.
	appended, pending, total := g.ing.log.Appended(), g.pending.Load(), int64(0)
	for _, th := range g.ing.heads() {
		th.each(func(s *memSeries) { total += s.unsealedBytes() })
	}
	g.unsealed.Store(total)
	g.measured.Store(appended - pending)
}

// chunkIndex is what a chunk takes in a pack beside its data, at most about.
const chunkIndex = 32

// unsealedBytes is about how much room a series takes in a pack.
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

// recordBytes is about how much a batch takes in the log when all its series are
// new there.
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

// histogramBytes is about how much a sample's histogram takes in the log.
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
