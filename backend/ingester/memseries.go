package ingester

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// memSeries is one series in the head: its open chunk, closed chunks that are not
// sealed yet, and, rarely, out-of-order samples and chunks that are being sealed.
type memSeries struct {
	labels labels.Labels
	hash   uint64
	ref    uint64     // identifies the series in the write-ahead log
	next   *memSeries // next series with the same hash

	loggedIn int32 // last epoch of the log that has the labels; guarded by the log's lock

	established bool // accepted because replicas have it, although it was over a limit; never changes

	mu    sync.Mutex
	lastT int64 // newest in-order sample; math.MinInt64 before the first
	lastV float64
	in    series.ChunkBuilder
	rare  *rareState // nil for nearly every series

	budget atomic.Pointer[chunkBudget] // nil for series of floats

	// Bytes counted in the account, and the capacity of the open chunk and the number
	// of closed chunks when they were counted. Guarded by mu.
	counted                  int64
	countedOpen, countedDone int32
}

func newMemSeries(ls labels.Labels, hash, ref uint64) *memSeries {
	return &memSeries{labels: ls, hash: hash, ref: ref, loggedIn: -1, lastT: math.MinInt64}
}

type appendResult int

const (
	appended   appendResult = iota // new timestamp
	duplicate                      // an equal sample exists
	replaced                       // a different value existed at the timestamp and was replaced
	superseded                     // a different value exists at the timestamp and wins
)

// append adds a sample of any age. The caller holds s.mu.
func (s *memSeries) append(smp *series.Sample, f *finder) (appendResult, error) {
	switch {
	case smp.T > s.lastT:
		s.lastV = smp.V
		if smp.IsHistogram() || s.budget.Load() != nil {
			if err := s.appendCounted(smp); err != nil {
				return appended, err
			}
		} else if err := s.in.AddFloat(smp.T, smp.V); err != nil {
			return appended, err
		}
		s.lastT = smp.T
		return appended, nil
	case smp.T == s.lastT && s.rare == nil && !smp.IsHistogram() && s.lastIsFloat():
		// Fast path: senders repeat their last samples.
		if r := compareAt(smp, &series.Sample{V: s.lastV}); r != replaced {
			return r, nil
		}
	}
	return s.appendLate(smp, f)
}

func (s *memSeries) lastIsFloat() bool {
	_, e, ok := s.in.Open()
	return ok && e == chunkenc.EncXOR
}

// chunks appends to dst the chunks that overlap [mint, maxt], which may share
// memory with the series.
func (s *memSeries) chunks(mint, maxt int64, dst []series.Chunk) ([]series.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eachClosed(func(c *series.Chunk) {
		if c.Overlaps(mint, maxt) {
			dst = append(dst, *c)
		}
	})
	if start, _, ok := s.in.Open(); ok && start <= maxt && s.lastT >= mint {
		if c, ok := s.in.Snapshot(); ok {
			dst = append(dst, c)
		}
	}
	if s.rare == nil || s.rare.waiting() == 0 {
		return dst, nil
	}
	late, err := s.rare.encoded()
	if err != nil {
		return dst, err
	}
	for _, c := range late {
		if c.Overlaps(mint, maxt) {
			dst = append(dst, c)
		}
	}
	return dst, nil
}

// hasData reports whether the series may have unsealed samples in [mint, maxt]: it
// checks the time range of chunks, not their samples.
func (s *memSeries) hasData(mint, maxt int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if start, _, ok := s.in.Open(); ok && start <= maxt && s.lastT >= mint {
		return true
	}
	found := false
	s.eachClosed(func(c *series.Chunk) { found = found || c.Overlaps(mint, maxt) })
	if found || s.rare == nil {
		return found
	}
	for _, f := range s.rare.late {
		if f.t >= mint && f.t <= maxt {
			return true
		}
	}
	for _, h := range s.rare.lateHist {
		if h.T >= mint && h.T <= maxt {
			return true
		}
	}
	return false
}

// take moves out the samples to be sealed, which are those before `bound` and those at or
// after `far`, and returns their chunks. The samples stay readable until the method sealed
// is called.
func (s *memSeries) take(bound, far int64) ([]series.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if start, _, ok := s.in.Open(); ok && (start < bound || start >= far) {
		s.in.Cut()
	}
	wanted := func(c *series.Chunk) bool { return c.MinTime < bound || c.MinTime >= far } // no chunk crosses a window's end
	var out, keep []series.Chunk
	if s.rare != nil {
		if s.rare.waiting() > 0 {
			if err := s.rare.encode(); err != nil {
				return nil, err
			}
		}
		out = s.rare.chunks.take(wanted)
	}
	for _, c := range s.in.Done() {
		if wanted(&c) {
			out = append(out, c)
		} else {
			keep = append(keep, c)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	if s.lastT >= far { // otherwise all samples before s.lastT would be out of order
		lists := [][]series.Chunk{out, keep}
		if s.rare != nil {
			lists = append(lists, s.rare.chunks.list)
		}
		s.lastT = newestBefore(far, lists...)
	}
	s.in.SetDone(keep)
	if s.rare == nil {
		s.rare = &rareState{}
	}
	s.rare.sealing = append(s.rare.sealing, out...)
	return slices.Clone(s.rare.sealing), nil
}

// newestBefore returns the newest timestamp of the closed chunks before the time `far`, or
// math.MinInt64 if there is none.
func newestBefore(far int64, lists ...[]series.Chunk) int64 {
	newest := int64(math.MinInt64)
	for _, list := range lists {
		for i := range list {
			if list[i].MaxTime < far {
				newest = max(newest, list[i].MaxTime)
			}
		}
	}
	return newest
}

// sealed drops the chunks that the method take moved out. It is called after a pack with
// them is served. If the pack could not be written, the method failed moves them back.
func (s *memSeries) sealed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rare == nil {
		return
	}
	s.rare.sealing = nil
	s.recount()
	s.tidy()
}

func (s *memSeries) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rare == nil {
		return
	}
	s.in.SetDone(append(s.in.Done(), s.rare.sealing...))
	s.rare.sealing = nil
	s.tidy()
}

func (s *memSeries) tidy() {
	if s.rare.waiting()+len(s.rare.chunks.list)+len(s.rare.sealing) == 0 {
		s.rare = nil
	}
}

// idle reports whether the series has no unsealed data and no sample since the
// given time (Unix milliseconds). A series whose last sample is in the far future
// counts as idle too.
func (s *memSeries) idle(since int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isIdle(since)
}

// isIdle is the method idle for callers that hold s.mu.
func (s *memSeries) isIdle(since int64) bool {
	_, _, open := s.in.Open()
	return !open && len(s.in.Done()) == 0 && s.rare == nil &&
		(s.lastT < since || s.lastT >= since+idleSeries.Milliseconds()+farWindows*series.WindowMillis)
}
