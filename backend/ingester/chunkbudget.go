package ingester

import (
	"fmt"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// A chunk holds samples of one kind, and native histograms only while nothing
// falls and no layout changes. A series whose samples change all the time costs
// a chunk a sample, and a page has room for so many chunks only. So the chunks
// that a series begins in a window are bounded, before its samples are logged:
// what is in the log was acknowledged, and replay never drops it.

// chunkBudget counts the chunks that a series begins by window. Only series that
// have had a native histogram have one: floats alone begin a chunk every half
// hour and at series.MaxChunkSamples. It is guarded by its series' lock.
type chunkBudget struct {
	windows map[int64]*windowChunks // by start; those with native histograms or a reservation

	appender int64 // bytes of the open chunk's appender for the layout of its histograms
}

type windowChunks struct {
	start int64
	// begun counts chunks begun, and series.LateChunks for every out-of-order
	// sample; reserved is what samples on their way to the log may begin.
	begun, reserved int
}

func newChunkBudget() *chunkBudget { return &chunkBudget{windows: map[int64]*windowChunks{}} }

// window returns the count of the window that holds t. A native histogram begins
// one; before that it is nil, and floats are alone there.
func (b *chunkBudget) window(t int64, histogram bool) *windowChunks {
	start := series.WindowStart(t)
	w := b.windows[start]
	if w == nil && histogram {
		w = &windowChunks{start: start}
		b.windows[start] = w
	}
	return w
}

// appendCounted appends an in-order sample of a series that has a budget or now
// gets one. The caller holds s.mu.
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

// ownBudget returns the series' budget, a new one if it has none. The caller
// holds s.mu.
func (s *memSeries) ownBudget() *chunkBudget {
	b := s.budget.Load()
	if b == nil {
		b = newChunkBudget()
		s.budget.Store(b)
	}
	return b
}

// recount counts what is left in the head after a seal.
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
	// Histograms first: floats count only where those are.
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

// reservation is what the samples of a request may begin in a window.
type reservation struct {
	s      *memSeries
	window int64
	chunks int
}

// reserve takes out of the batch the samples that would begin more chunks than a
// window of their series may have, and reserves what the others may begin, until
// release. Batches of floats for series that never had a histogram pass it by.
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
				a.took(&e.Samples[j])
			}
			continue
		}
		w.reserveEntry(s, i, e, a, &w.find, out)
	}
}

// admission begins to follow the series' samples of a request.
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
	f.forget() // others may have changed the series since
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
			w.reserved = append(w.reserved, reservation{s, at.start, n})
		}
		kept = append(kept, *smp)
		a.took(smp)
	}
	e.Samples = kept
}

func tooManyChunks(used int) string {
	return fmt.Sprintf("a series changes its sample type too often: its samples change between float and native histogram, "+
		"or its native histograms reset, change layout or come out of order, so that they take %d chunks in a window of two hours, "+
		"of at most %d; send floats and histograms as series of different names", used, series.MaxWindowChunks)
}

// admission follows a series' samples of one request, as append will.
type admission struct {
	b      *chunkBudget
	newest int64
	float  bool          // the newest sample is a float
	prev   series.Sample // the newest sample, if it is of this request
	known  bool          // prev is
}

// cost is how many chunks a sample may begin, and where they count; nil where
// floats are alone.
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

// exact looks closer at a sample for which there seems to be no room: one that
// goes on in the chunk of the sample before it costs nothing.
func (a *admission) exact(smp *series.Sample, n int, at *windowChunks) (int, *windowChunks) {
	if smp.T > a.newest && a.known && series.SubChunkStart(a.prev.T) == series.SubChunkStart(smp.T) && series.Continues(&a.prev, smp) {
		return 0, at
	}
	return n, at
}

func (a *admission) took(smp *series.Sample) {
	if smp.T > a.newest {
		a.newest, a.float, a.prev, a.known = smp.T, !smp.IsHistogram(), *smp, true
	}
}

// release gives reservations back: what they stood for is counted now, or was
// not logged.
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
