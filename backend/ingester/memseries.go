package ingester

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// maxLate is how many out-of-order samples of a series wait in the clear
// before they are encoded into chunks of their own.
const maxLate = 128

// memSeries is one series in the head: its open chunk, its closed chunks that
// are not yet sealed, and, seldom, out-of-order samples and chunks that are
// being sealed.
type memSeries struct {
	labels labels.Labels
	hash   uint64
	ref    uint64     // names the series in the write-ahead log
	next   *memSeries // another series of the same hash

	// In which segment of the log the labels stand, and how often: two copies
	// let replay survive damage to one. Guarded by the log's lock.
	loggedIn    int32
	loggedTimes int32

	mu    sync.Mutex
	lastT int64 // newest in-order sample; math.MinInt64 before the first
	lastV float64
	in    series.ChunkBuilder
	rare  *rareState // nil for nearly every series

	budget atomic.Pointer[chunkBudget] // nil for series of floats
}

type rareState struct {
	late     []floatSample   // out-of-order floats, as they came
	lateHist []series.Sample // out-of-order histograms
	sealing  []series.Chunk  // being written to a pack, still served from here
}

type floatSample struct {
	t int64
	v float64
}

func newMemSeries(ls labels.Labels, hash, ref uint64) *memSeries {
	return &memSeries{labels: ls, hash: hash, ref: ref, loggedIn: -1, lastT: math.MinInt64}
}

type appendResult int

const (
	appended  appendResult = iota
	duplicate              // the very sample is there already
	conflict               // another value stands at its time
)

// append takes a sample of any age. The caller holds s.mu.
func (s *memSeries) append(smp *series.Sample) (appendResult, error) {
	switch {
	case smp.T > s.lastT:
		if smp.IsHistogram() || s.budget.Load() != nil {
			s.lastV = smp.V
			if err := s.appendCounted(smp); err != nil {
				return appended, err
			}
		} else {
			s.lastV = smp.V
			if err := s.in.AddFloat(smp.T, smp.V); err != nil {
				return appended, err
			}
		}
		s.lastT = smp.T
		return appended, nil
	case smp.T == s.lastT && !smp.IsHistogram() && s.lastIsFloat():
		if math.Float64bits(smp.V) == math.Float64bits(s.lastV) {
			return duplicate, nil
		}
		if !value.IsStaleNaN(smp.V) && !value.IsStaleNaN(s.lastV) {
			return conflict, nil
		}
	}
	return appended, s.appendLate(smp)
}

func (s *memSeries) lastIsFloat() bool {
	_, e, ok := s.in.Open()
	return ok && e == chunkenc.EncXOR
}

func (s *memSeries) appendLate(smp *series.Sample) error {
	if s.rare == nil {
		s.rare = &rareState{}
	}
	if smp.IsHistogram() || s.budget.Load() != nil {
		s.ownBudget().add(smp.T, smp.IsHistogram(), series.LateChunks)
	}
	if smp.IsHistogram() {
		s.rare.lateHist = append(s.rare.lateHist, *smp)
	} else {
		s.rare.late = append(s.rare.late, floatSample{smp.T, smp.V})
	}
	if len(s.rare.late)+len(s.rare.lateHist) < maxLate {
		return nil
	}
	chunks, err := encodeLate(s.rare.late, s.rare.lateHist)
	if err != nil {
		return err
	}
	s.in.SetDone(append(s.in.Done(), chunks...))
	s.rare.late, s.rare.lateHist = nil, nil
	return nil
}

// encodeLate sorts out-of-order samples, keeps one for each time, and encodes
// them. It leaves its arguments as they are.
func encodeLate(floats []floatSample, hists []series.Sample) ([]series.Chunk, error) {
	samples := make([]series.Sample, 0, len(floats)+len(hists))
	for _, f := range floats {
		samples = append(samples, series.Sample{T: f.t, V: f.v})
	}
	for _, h := range hists { // the encoder may change a histogram
		if h.H != nil {
			h.H = h.H.Copy()
		} else {
			h.FH = h.FH.Copy()
		}
		samples = append(samples, h)
	}
	slices.SortStableFunc(samples, func(a, b series.Sample) int { return cmp.Compare(a.T, b.T) })
	kept := samples[:0]
	for _, smp := range samples {
		if n := len(kept); n > 0 && kept[n-1].T == smp.T {
			if series.Wins(&smp, &kept[n-1]) {
				kept[n-1] = smp
			}
			continue
		}
		kept = append(kept, smp)
	}
	return series.Encode(kept)
}

// chunks appends copies or references of what the series has in [mint, maxt].
func (s *memSeries) chunks(mint, maxt int64, dst []series.Chunk) ([]series.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.in.Done() {
		if c.Overlaps(mint, maxt) {
			dst = append(dst, c)
		}
	}
	if start, _, ok := s.in.Open(); ok && start <= maxt && s.lastT >= mint {
		if c, ok := s.in.Snapshot(); ok {
			dst = append(dst, c)
		}
	}
	if s.rare == nil {
		return dst, nil
	}
	for _, c := range s.rare.sealing {
		if c.Overlaps(mint, maxt) {
			dst = append(dst, c)
		}
	}
	if len(s.rare.late)+len(s.rare.lateHist) == 0 {
		return dst, nil
	}
	late, err := encodeLate(s.rare.late, s.rare.lateHist)
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

// hasData reports whether the series has unsealed samples in [mint, maxt]. It
// may say yes for a range that only brackets them.
func (s *memSeries) hasData(mint, maxt int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if start, _, ok := s.in.Open(); ok && start <= maxt && s.lastT >= mint {
		return true
	}
	for _, c := range s.in.Done() {
		if c.Overlaps(mint, maxt) {
			return true
		}
	}
	if s.rare == nil {
		return false
	}
	for _, c := range s.rare.sealing {
		if c.Overlaps(mint, maxt) {
			return true
		}
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

// take moves all samples before bound, and those from far on, out to be sealed
// and returns their chunks. They stay readable until sealed is called.
func (s *memSeries) take(bound, far int64) ([]series.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if start, _, ok := s.in.Open(); ok && (start < bound || start >= far) {
		s.in.Cut()
	}
	if s.rare != nil && len(s.rare.late)+len(s.rare.lateHist) > 0 {
		late, err := encodeLate(s.rare.late, s.rare.lateHist)
		if err != nil {
			return nil, err
		}
		s.in.SetDone(append(s.in.Done(), late...))
		s.rare.late, s.rare.lateHist = nil, nil
	}
	var out, keep []series.Chunk
	for _, c := range s.in.Done() {
		if c.MinTime < bound || c.MinTime >= far { // no chunk lies across a window's end
			out = append(out, c)
		} else {
			keep = append(keep, c)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	if s.lastT >= far { // or everything until then would count as out of order
		s.lastT = newestBefore(far, out, keep)
	}
	s.in.SetDone(keep)
	if s.rare == nil {
		s.rare = &rareState{}
	}
	s.rare.sealing = append(s.rare.sealing, out...)
	return slices.Clone(s.rare.sealing), nil
}

// newestBefore is the newest time in closed chunks, but for those from far on;
// math.MinInt64 without any.
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

// sealed drops what take moved out: a pack serves it now. If the pack could not
// be written, failed puts it back.
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
	if len(s.rare.late)+len(s.rare.lateHist)+len(s.rare.sealing) == 0 {
		s.rare = nil
	}
}

// idle reports whether the series holds nothing and had no sample since the
// given time (Unix milliseconds). One whose last sample was of the far future
// does not stay until then.
func (s *memSeries) idle(since int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, open := s.in.Open()
	return !open && len(s.in.Done()) == 0 && s.rare == nil && (s.lastT < since || s.lastT >= since+idleSeries.Milliseconds()+farWindows*series.WindowMillis)
}
