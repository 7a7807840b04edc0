package column

import (
	"encoding/binary"

	"github.com/palliumhq/pallium/backend/series"
)

// Modes of a timestamp column: the encoding of the timestamps after the first.
const (
	timesSteps = 0 // each step minus the previous one
	timesGrid  = 1 // each timestamp minus its position on an even grid
)

// timesWriter encodes timestamp columns. It reuses its buffers.
type timesWriter struct {
	stream *streamWriter
	r      []int64
	grid   [sampled]int64
	steps  [sampled]int64
}

// append appends the encoded timestamps ts, without padding. The caller has
// validated ts; `start` is the first millisecond of the day.
func (w *timesWriter) append(dst []byte, ts []int64, start int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ts)))
	dst = binary.AppendUvarint(dst, uint64(ts[0]-start))
	if len(ts) == 1 {
		return dst
	}
	n := len(ts) - 1
	w.r = grow(w.r, n)
	for i := range n {
		w.r[i] = ts[i+1] - ts[i]
	}
	first, even := w.r[0], median(w.r)
	grid, steps := w.grid[:0], w.steps[:0]
	eachSampled(n, func(from, to int) {
		for i := from; i < to; i++ {
			grid = append(grid, ts[i+1]-ts[0]-int64(i+1)*even)
			before := first
			if i > 0 {
				before = w.r[i-1]
			}
			steps = append(steps, w.r[i]-before)
		}
	})
	gridBase, gridSize := bestBase(grid)
	stepBase, stepSize := bestBase(steps)
	if gridSize < stepSize {
		for i := range n {
			w.r[i] = ts[i+1] - ts[0] - int64(i+1)*even
		}
		dst = append(dst, timesGrid)
		dst = binary.AppendUvarint(dst, uint64(even))
		return w.stream.append(dst, w.r, gridBase)
	}
	before := first
	for i, d := range w.r {
		w.r[i] = d - before
		before = d
	}
	dst = append(dst, timesSteps)
	dst = binary.AppendUvarint(dst, uint64(first))
	return w.stream.append(dst, w.r, stepBase)
}

// timesReader decodes a timestamp column batch by batch.
type timesReader struct {
	n      int
	read   int
	mode   byte
	last   int64 // milliseconds from the start of the day
	step   int64
	grid   int64
	stream reader
}

// open reads the header of the timestamp column in b[pos:end], which padding
// must follow.
func (r *timesReader) open(b []byte, pos, end int) error {
	in := &r.stream
	in.b, in.pos, in.end = b, pos, end
	n, ok1 := in.uvarint()
	start, ok2 := in.uvarint()
	if !ok1 || !ok2 || n == 0 || n > uint64(series.DayMillis) || start >= uint64(series.DayMillis) {
		return corrupt("invalid header of a timestamp column")
	}
	r.n, r.read, r.last, r.grid, r.mode = int(n), 0, int64(start), int64(start), timesSteps
	if n == 1 {
		if in.pos != end {
			return corrupt("timestamp column of one timestamp has %d excess bytes", end-in.pos)
		}
		return nil
	}
	if in.pos >= end {
		return corrupt("timestamp column is too short")
	}
	r.mode = b[in.pos]
	in.pos++
	if r.mode > timesGrid {
		return newer("timestamp column of mode %d", r.mode)
	}
	step, ok := in.uvarint()
	if !ok || step == 0 || step >= uint64(series.DayMillis) {
		return corrupt("invalid step of a timestamp column")
	}
	r.step = int64(step)
	return in.open(b, in.pos, end, r.n-1)
}

// openColumn reads the header of a timestamp column that is stored outside of a
// frame.
func (r *timesReader) openColumn(column []byte) error {
	end := len(column) - padding
	if end < 0 || binary.BigEndian.Uint64(column[end:]) != 0 {
		return corrupt("timestamp column does not end with padding")
	}
	return r.open(column, 0, end)
}

// fill decodes len(dst) timestamps as Unix milliseconds; day is the first
// millisecond of the day. Except in the last call, len(dst) must be a multiple
// of block, plus one in the first call.
func (r *timesReader) fill(dst []int64, day int64) error {
	if r.read == 0 {
		dst[0] = r.last + day
		dst, r.read = dst[1:], 1
	}
	if len(dst) == 0 {
		return nil
	}
	if r.mode == timesSteps && r.stream.empty() && r.stream.base == 0 {
		return r.fillEven(dst, day)
	}
	if err := r.stream.fill(dst); err != nil {
		return err
	}
	r.read += len(dst)
	if r.mode == timesGrid {
		return r.fillGrid(dst, day)
	}
	t, step := r.last, r.step
	for i, d := range dst {
		step += d
		t += step
		if uint64(step-1) >= uint64(series.DayMillis) || t >= series.DayMillis {
			return corrupt("timestamps do not ascend within their day")
		}
		dst[i] = t + day
	}
	r.last, r.step = t, step
	return nil
}

func (r *timesReader) fillEven(dst []int64, day int64) error {
	r.read += len(dst)
	last := r.last + int64(len(dst))*r.step
	if last >= series.DayMillis {
		return corrupt("timestamps do not ascend within their day")
	}
	t := r.last + day
	for i := range dst {
		t += r.step
		dst[i] = t
	}
	r.last = last
	return nil
}

func (r *timesReader) fillGrid(dst []int64, day int64) error {
	before, at := r.last, r.grid
	for i, d := range dst {
		at += r.step
		t := at + d
		if t <= before || t >= series.DayMillis {
			return corrupt("timestamps do not ascend within their day")
		}
		before = t
		dst[i] = t + day
	}
	r.last, r.grid = before, at
	return nil
}

func (r *timesReader) close() error {
	if r.n == 1 {
		return nil
	}
	return r.stream.close()
}

// drain decodes all timestamps only to check them.
func (r *timesReader) drain() error {
	var buf [1 + batchSize]int64
	dst := buf[:]
	for r.read < r.n {
		if err := r.fill(dst[:min(len(dst), r.n-r.read)], 0); err != nil {
			return err
		}
		dst = buf[:batchSize]
	}
	return r.close()
}

func grow(s []int64, n int) []int64 {
	if cap(s) < n {
		return make([]int64, n, n+n/4)
	}
	return s[:n]
}
