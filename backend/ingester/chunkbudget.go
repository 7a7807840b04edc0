package ingester

import (
	"fmt"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// A chunk holds samples of one kind; a chunk of native histograms also ends when a
// counter is reset or the bucket layout changes. A series that changes with every
// sample needs one chunk per sample, and a metric page can hold only a limited
// number of chunks. The number of chunks that a series begins in a window is
// therefore limited before its samples are logged: logged samples were
// acknowledged, and replay never drops them.

// chunkBudget counts the chunks that a series begins, by window. Only series for
// which a native histogram was sent have a budget: floats begin a chunk every half
// hour and after series.MaxChunkSamples samples. It is guarded by its series' lock.
type chunkBudget struct {
	windows map[int64]*windowChunks // by window start; only windows with native histograms or a reservation

	appender int64 // bytes of the open chunk's appender for the layout of its histograms
}

type windowChunks struct {
	start int64
	// begun counts chunks begun, plus series.LateChunks for every out-of-order
	// sample. reserved counts the chunks that samples not logged yet may begin.
	begun, reserved int
}

func newChunkBudget() *chunkBudget { return &chunkBudget{windows: map[int64]*windowChunks{}} }

// window returns the count of the window that contains t. The first native
// histogram creates it; window returns nil for a window with only floats.
func (b *chunkBudget) window(t int64, histogram bool) *windowChunks {
	start := series.WindowStart(t)
	w := b.windows[start]
	if w == nil && histogram {
		w = &windowChunks{start: start}
		b.windows[start] = w
	}
	return w
}

// appendCounted appends an in-order sample and counts the chunk that it may begin.
// It creates the series' budget if needed. The caller holds s.mu.
func (s *memSeries) appendCounted(smp *series.Sample) error {
	b, histogram := s.ownBudget(), smp.IsHistogram()
	closed := len(s.in.Done())
	_, _, open := s.in.Open()
	if err := s.in.Add(smp); err != nil {
		return err
	}
	b.appender = appenderSize(smp)
	if !open || len(s.in.Done()) > closed {
		b.add(smp.T, histogram, 1)
	} else {
		b.add(smp.T, histogram, 0)
	}
	return nil
}

func (b *chunkBudget) add(t int64, histogram bool, n int) {
	if w := b.window(t, histogram); w != nil {
		w.begun += n
	}
}

// ownBudget returns the series' budget, and creates it if needed. The caller holds
// s.mu.
func (s *memSeries) ownBudget() *chunkBudget {
	b := s.budget.Load()
	if b == nil {
		b = newChunkBudget()
		s.budget.Store(b)
	}
	return b
}

// recount counts the chunks left in the head after a seal.
func (s *memSeries) recount() {
	b := s.budget.Load()
	if b == nil {
		return
	}
	for start, w := range b.windows {
		if w.begun = 0; w.reserved == 0 {
			delete(b.windows, start)
		}
	}
	// Histograms first: floats are counted only in windows with histograms.
	for _, histogram := range []bool{true, false} {
		s.eachClosed(func(c *series.Chunk) {
			if (c.Encoding != chunkenc.EncXOR) == histogram {
				b.add(c.MinTime, histogram, 1)
			}
		})
		if start, e, ok := s.in.Open(); ok && (e != chunkenc.EncXOR) == histogram {
			b.add(start, histogram, 1)
		}
	}
	if s.rare == nil {
		return
	}
	for _, h := range s.rare.lateHist {
		b.add(h.T, true, series.LateChunks)
	}
	for _, f := range s.rare.late {
		b.add(f.t, false, series.LateChunks)
	}
}

// chunkReservation is the number of chunks that the samples of a request may begin in a
// window.
type chunkReservation struct {
	s      *memSeries
	window int64
	chunks int
}

// reserve removes from the batch the samples that would begin more chunks than a
// window of their series may have. It reserves the chunks that the other samples may
// begin, until release. Floats of series that never had a native histogram are not
// limited.
func (w *writeRecord) reserve(out *series.Outcome) {
	var met map[*memSeries]*admission // a series may be in several entries
	for i, s := range w.series {
		if s == nil || !w.histograms && s.budget.Load() == nil {
			continue
		}
		a := met[s]
		if a == nil {
			a = s.admission()
			if met == nil {
				met = map[*memSeries]*admission{}
			}
			met[s] = a
		}
		e := &w.batch.Entries[i]
		if s.budget.Load() == nil && !hasHistogram(e.Samples) {
			for j := range e.Samples {
				a.track(&e.Samples[j])
			}
			continue
		}
		w.reserveEntry(s, i, e, a, &w.find, out)
	}
}

// admission returns an admission for the samples of a request.
func (s *memSeries) admission() *admission {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &admission{newest: s.lastT, float: s.lastIsFloat()}
}

func hasHistogram(samples []series.Sample) bool {
	for i := range samples {
		if samples[i].IsHistogram() {
			return true
		}
	}
	return false
}

func (w *writeRecord) reserveEntry(s *memSeries, entry int, e *series.Entry, a *admission, f *finder, out *series.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.forget() // other requests may have changed the series since
	a.b = s.ownBudget()
	kept := e.Samples[:0]
	for j := range e.Samples {
		smp := &e.Samples[j]
		n, at := a.cost(smp)
		if at != nil && n > 0 && at.begun+at.reserved+n > series.MaxWindowChunks {
			n, at = a.exact(smp, n, at)
		}
		if at != nil && n > 0 && at.begun+at.reserved+n > series.MaxWindowChunks {
			if !s.adds(smp, f) {
				n = 0
			} else {
				out.RejectSample(entry, j, "too_many_sample_type_changes", tooManyChunks(at.begun+at.reserved), e.Labels.String)
				continue
			}
		}
		if at != nil && n > 0 {
			at.reserved += n
			w.reserved = append(w.reserved, chunkReservation{s, at.start, n})
		}
		kept = append(kept, *smp)
		a.track(smp)
	}
	e.Samples = kept
}

func tooManyChunks(used int) string {
	return fmt.Sprintf("the series changes its sample type too often: its samples alternate between floats and native histograms, "+
		"or its native histograms reset, change layout or are out of order, so that they need %d chunks in a window of two hours, "+
		"where at most %d are allowed; send floats and histograms under different metric names", used, series.MaxWindowChunks)
}

// admission tracks a series' state over the samples of one request, as the method append
// will change it.
type admission struct {
	b      *chunkBudget
	newest int64
	float  bool          // whether the newest sample is a float
	prev   series.Sample // the newest sample, if it is in this request
	known  bool          // whether prev is set
}

// cost returns how many chunks to reserve for a sample, and the window that counts
// them: nil for a window with only floats. A sample begins at most that many chunks,
// except that nothing is reserved for the few chunks that floats after floats begin.
func (a *admission) cost(smp *series.Sample) (int, *windowChunks) {
	histogram := smp.IsHistogram()
	at := a.b.window(smp.T, histogram)
	switch {
	case at == nil:
		return 0, nil
	case smp.T <= a.newest:
		return series.LateChunks, at
	case !histogram && a.float:
		return 0, at
	}
	return 1, at
}

// exact computes more precisely the cost of a sample that seems to exceed the limit: a
// sample that continues the chunk of the sample before it costs nothing.
func (a *admission) exact(smp *series.Sample, n int, at *windowChunks) (int, *windowChunks) {
	if smp.T > a.newest && a.known && series.SubChunkStart(a.prev.T) == series.SubChunkStart(smp.T) && series.Continues(&a.prev, smp) {
		return 0, at
	}
	return n, at
}

func (a *admission) track(smp *series.Sample) {
	if smp.T > a.newest {
		a.newest, a.float, a.prev, a.known = smp.T, !smp.IsHistogram(), *smp, true
	}
}

// release releases the reservations: their chunks are counted as begun by now, or
// their samples were not logged.
func (w *writeRecord) release() {
	for _, r := range w.reserved {
		r.s.mu.Lock()
		if at := r.s.budget.Load().window(r.window, false); at != nil {
			at.reserved -= r.chunks
		}
		r.s.mu.Unlock()
	}
	w.reserved = nil
}
