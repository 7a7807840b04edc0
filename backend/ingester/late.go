package ingester

import (
	"cmp"
	"slices"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	// maxLate is the number of out-of-order samples of a series that are buffered
	// uncompressed before they are encoded into chunks.
	maxLate = 128
	// maxLateChunks is the number of chunks of out-of-order samples in the time of
	// one sub-chunk at which they are first joined.
	maxLateChunks = 64
)

// rareState is the state that few series have: samples that arrived out of order or
// replace another sample with the same timestamp, and chunks that are being sealed.
type rareState struct {
	late     []floatSample   // floats in order of arrival; late and lateHist together have each timestamp once
	lateHist []series.Sample // native histograms
	chunks   lateChunks      // encoded out-of-order samples
	sealing  []series.Chunk  // being written to a pack, still read from here

	lateBytes int64 // bytes of the histograms in lateHist
}

type floatSample struct {
	t int64
	v float64
}

// waiting returns the number of out-of-order samples that are not encoded yet.
func (r *rareState) waiting() int { return len(r.late) + len(r.lateHist) }

// at returns the buffered sample at t.
func (r *rareState) at(t int64) (series.Sample, bool) {
	for i := range r.late {
		if r.late[i].t == t {
			return series.Sample{T: t, V: r.late[i].v}, true
		}
	}
	for i := range r.lateHist {
		if r.lateHist[i].T == t {
			return r.lateHist[i], true
		}
	}
	return series.Sample{}, false
}

// drop removes the buffered sample at t.
func (r *rareState) drop(t int64) {
	r.late = slices.DeleteFunc(r.late, func(f floatSample) bool { return f.t == t })
	r.lateHist = slices.DeleteFunc(r.lateHist, func(h series.Sample) bool {
		if h.T != t {
			return false
		}
		r.lateBytes -= sampleSize(&h)
		return true
	})
}

// keep adds a sample to the buffer. It copies histograms: their slices belong to
// the request and may have much spare capacity.
func (r *rareState) keep(smp *series.Sample) {
	if !smp.IsHistogram() {
		r.late = append(r.late, floatSample{smp.T, smp.V})
		return
	}
	kept := *smp
	if kept.H != nil {
		kept.H = kept.H.Copy()
	} else {
		kept.FH = kept.FH.Copy()
	}
	r.lateHist = append(r.lateHist, kept)
	r.lateBytes += sampleSize(&kept)
}

// encode encodes the buffered samples into chunks and empties the buffer.
func (r *rareState) encode() error {
	chunks, err := r.encoded()
	if err != nil {
		return err
	}
	r.late, r.lateHist, r.lateBytes = nil, nil, 0
	return r.chunks.add(chunks)
}

// encoded returns the buffered samples as chunks, and does not change the buffer.
func (r *rareState) encoded() ([]series.Chunk, error) {
	samples := make([]series.Sample, 0, r.waiting())
	for _, f := range r.late {
		samples = append(samples, series.Sample{T: f.t, V: f.v})
	}
	for _, h := range r.lateHist { // copy: the encoder may change a histogram
		if h.H != nil {
			h.H = h.H.Copy()
		} else {
			h.FH = h.FH.Copy()
		}
		samples = append(samples, h)
	}
	slices.SortFunc(samples, func(a, b series.Sample) int { return cmp.Compare(a.T, b.T) })
	return series.Encode(samples)
}

// lateChunks are chunks of out-of-order samples, in no particular order. When there
// are many chunks in the time of one sub-chunk, they are joined, so that
// conflicting or repeated samples do not accumulate.
type lateChunks struct {
	list  []series.Chunk
	parts map[int64]latePart // by start of the sub-chunk
}

// latePart counts the chunks in the time of one sub-chunk.
type latePart struct{ chunks, joinAt int }

// latePartBytes is the size of an entry of lateChunks.parts.
const latePartBytes = 60

func (l *lateChunks) add(chunks []series.Chunk) error {
	if len(chunks) > 0 && l.parts == nil {
		l.parts = map[int64]latePart{}
	}
	l.list = append(l.list, chunks...) // add all chunks before an error is possible
	for _, c := range chunks {
		start := series.SubChunkStart(c.MinTime)
		p := l.parts[start]
		p.chunks++
		p.joinAt = max(p.joinAt, maxLateChunks)
		l.parts[start] = p
		if p.chunks < p.joinAt {
			continue
		}
		if err := l.join(start); err != nil {
			return err
		}
	}
	return nil
}

// join merges the chunks in the time of one sub-chunk into a sequence without
// overlaps.
func (l *lateChunks) join(start int64) error {
	of := func(c series.Chunk) bool { return series.SubChunkStart(c.MinTime) == start }
	var part []series.Chunk
	for _, c := range l.list {
		if of(c) {
			part = append(part, c)
		}
	}
	joined, err := series.Normalize(part)
	if err != nil {
		return err
	}
	l.list = append(slices.DeleteFunc(l.list, of), joined...)
	// Samples that keep changing their type need many chunks even after a join.
	l.parts[start] = latePart{chunks: len(joined), joinAt: max(maxLateChunks, 2*len(joined))}
	return nil
}

// take removes and returns the chunks for which `wanted` returns true.
func (l *lateChunks) take(wanted func(*series.Chunk) bool) []series.Chunk {
	var out, kept []series.Chunk
	for i := range l.list {
		if wanted(&l.list[i]) {
			out = append(out, l.list[i])
		} else {
			kept = append(kept, l.list[i])
		}
	}
	if len(out) == 0 {
		return nil
	}
	l.list = kept
	for _, c := range out {
		start := series.SubChunkStart(c.MinTime)
		if p := l.parts[start]; p.chunks > 1 {
			p.chunks--
			l.parts[start] = p
		} else {
			delete(l.parts, start)
		}
	}
	return out
}

// eachChunk calls f with every chunk of the series, including the open one. f must
// not retain the chunk.
func (s *memSeries) eachChunk(f func(*series.Chunk)) {
	if c, ok := s.in.View(); ok {
		f(&c)
	}
	s.eachClosed(f)
}

// eachClosed calls f with every chunk except the open one. f must not change the
// chunk.
func (s *memSeries) eachClosed(f func(*series.Chunk)) {
	done := s.in.Done()
	for i := range done {
		f(&done[i])
	}
	if s.rare == nil {
		return
	}
	for i := range s.rare.chunks.list {
		f(&s.rare.chunks.list[i])
	}
	for i := range s.rare.sealing {
		f(&s.rare.sealing[i])
	}
}

// lateResult returns the result that append would have for a sample that is not newer
// than all others, without changing the series.
func (s *memSeries) lateResult(smp *series.Sample, f *finder) (appendResult, error) {
	if s.rare != nil {
		if old, ok := s.rare.at(smp.T); ok {
			return compareAt(smp, &old), nil
		}
	}
	old, ok, err := f.find(s, smp.T)
	if err != nil || !ok {
		return appended, err
	}
	return compareAt(smp, &old), nil
}

// adds reports whether appending a sample may change the series.
func (s *memSeries) adds(smp *series.Sample, f *finder) bool {
	if smp.T > s.lastT {
		return true
	}
	result, err := s.lateResult(smp, f)
	return err != nil || result == appended || result == replaced
}

// appendLate appends a sample that is not newer than all others. If the head has a
// sample with the same timestamp, the winning one is stored.
func (s *memSeries) appendLate(smp *series.Sample, f *finder) (appendResult, error) {
	result, err := s.lateResult(smp, f)
	if err != nil || result == duplicate || result == superseded {
		return result, err
	}
	if s.rare == nil {
		s.rare = &rareState{}
	}
	waiting := s.rare.waiting()
	if result == replaced {
		s.rare.drop(smp.T) // if it is in the buffer, and not in a chunk
	}
	s.rare.keep(smp)
	if smp.IsHistogram() || s.budget.Load() != nil {
		s.ownBudget().add(smp.T, smp.IsHistogram(), series.LateChunks*(s.rare.waiting()-waiting))
	}
	if s.rare.waiting() < maxLate {
		return result, nil
	}
	f.forget()
	return result, s.rare.encode()
}

// compareAt compares a sample with the existing one at the same timestamp.
func compareAt(smp, old *series.Sample) appendResult {
	switch c := series.Compare(smp, old); {
	case c > 0:
		return replaced
	case c < 0:
		return superseded
	}
	return duplicate
}
