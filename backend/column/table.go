package column

import (
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// Table is the decoded header of a payload. Series are decoded when they are
// read; reading them in order is fastest. It is safe for concurrent use.
type Table struct {
	b          []byte
	day        int64 // first millisecond
	entries    []entry
	histograms []histogramPlace

	// last has the integers of the last decoded series if the next series needs
	// them. A goroutine takes them out while it uses them.
	last atomic.Pointer[integers]
}

// entry is the header of a series. times, values and valuesEnd are offsets in
// the payload.
type entry struct {
	n             int // float samples
	codec         codec
	chain         uint8 // number of preceding series that must be decoded first
	times, timesN uint32
	values        uint32
	valuesEnd     uint32
	histogram     uint32 // position of its first histogram chunk in Table.histograms
	histograms    uint32 // number of its histogram chunks
}

type histogramPlace struct {
	encoding chunkenc.Encoding
	min, max int64
	at, n    uint32
}

// integers has the integers of series i.
type integers struct {
	i int
	x []int64
}

// Open decodes the header of a payload; day is in days since 1970. The payload
// must not be modified while the table is in use.
func Open(payload []byte, day int64) (*Table, error) {
	if len(payload) == 0 {
		return nil, corrupt("empty payload")
	}
	if payload[0] != version {
		return nil, newer("table of version %d", payload[0])
	}
	end := len(payload) - padding
	if end < 1 || len(payload) > maxPayload || binary.BigEndian.Uint64(payload[end:]) != 0 {
		return nil, corrupt("payload of %d bytes is too short, too large or does not end with padding", len(payload))
	}
	h := header{r: reader{b: payload, pos: 1, end: end}, t: &Table{b: payload, day: day * series.DayMillis}}
	count := h.uvarint(uint64(end))
	if h.bad || count > min(maxSeries, uint64(end)/2) {
		return nil, corrupt("invalid number of series")
	}
	h.t.entries = make([]entry, count)
	for i := range h.t.entries {
		if err := h.readEntry(i); err != nil {
			return nil, err
		}
	}
	if h.bad {
		return nil, corrupt("invalid header of a table")
	}
	return h.t, h.place(h.r.pos, end)
}

// header reads the header of a table.
type header struct {
	r   reader
	t   *Table
	bad bool
}

// uvarint reads a number of at most most.
func (h *header) uvarint(most uint64) uint64 {
	v, ok := h.r.uvarint()
	if !ok || v > most {
		h.bad = true
		return 0
	}
	return v
}

func (h *header) byte() byte {
	if h.r.pos >= h.r.end {
		h.bad = true
		return 0
	}
	h.r.pos++
	return h.r.b[h.r.pos-1]
}

// readEntry reads the header of series i. It sets lengths, which place replaces
// with offsets.
func (h *header) readEntry(i int) error {
	e := &h.t.entries[i]
	e.n = int(h.uvarint(uint64(series.DayMillis)))
	e.histogram = uint32(len(h.t.histograms))
	e.histograms = uint32(h.uvarint(uint64(h.r.end - h.r.pos)))
	if e.n > 0 {
		if err := h.readFloats(i); err != nil {
			return err
		}
	}
	end := int64(0)
	for range e.histograms {
		enc := chunkenc.Encoding(h.byte())
		lo := end + int64(h.uvarint(uint64(series.DayMillis)))
		hi := lo + int64(h.uvarint(uint64(series.DayMillis)))
		n := h.uvarint(maxPayload)
		if h.bad || hi >= series.DayMillis || n < 2 {
			return corrupt("invalid histogram chunk in the header of series %d", i)
		}
		if enc != chunkenc.EncHistogram && enc != chunkenc.EncFloatHistogram {
			return newer("histogram chunk of encoding %d in series %d", enc, i)
		}
		h.t.histograms = append(h.t.histograms, histogramPlace{enc, h.t.day + lo, h.t.day + hi, 0, uint32(n)})
		end = hi
	}
	if h.bad {
		return corrupt("invalid header of series %d", i)
	}
	return nil
}

func (h *header) readFloats(i int) error {
	e := &h.t.entries[i]
	e.codec = codec(h.byte())
	e.timesN = uint32(h.byte())
	e.times = uint32(h.r.pos)
	if int(e.timesN) > min(maxInlineTimes, h.r.end-h.r.pos) {
		return corrupt("invalid times in the header of series %d", i)
	}
	h.r.pos += int(e.timesN)
	e.values = uint32(h.uvarint(maxPayload))
	if h.bad {
		return corrupt("invalid header of series %d", i)
	}
	if e.codec < codecConstant || e.codec > codecOffset {
		return newer("series %d has codec %d", i, e.codec)
	}
	if e.codec != codecPrevious {
		return nil
	}
	if i == 0 || e.n > maxChained {
		return corrupt("series %d has codec previous, but is the first or too long", i)
	}
	before := &h.t.entries[i-1]
	if before.n != e.n || before.codec == codecConstant || before.chain >= maxChain {
		return corrupt("series %d has codec previous, but its predecessor cannot be one", i)
	}
	e.chain = before.chain + 1
	return nil
}

// place replaces the lengths of values and histogram chunks by their offsets in
// the payload.
func (h *header) place(pos, end int) error {
	for i := range h.t.entries {
		e := &h.t.entries[i]
		if int(e.values) > end-pos {
			return corrupt("values of series %d are beyond the payload", i)
		}
		pos, e.values, e.valuesEnd = pos+int(e.values), uint32(pos), uint32(pos)+e.values
		for k := range e.histograms {
			c := &h.t.histograms[e.histogram+k]
			if int(c.n) > end-pos {
				return corrupt("histograms of series %d are beyond the payload", i)
			}
			c.at = uint32(pos)
			pos += int(c.n)
		}
	}
	if pos != end {
		return corrupt("payload has %d excess bytes", end-pos)
	}
	return nil
}

// Len returns the number of series in the table.
func (t *Table) Len() int { return len(t.entries) }

// Floats returns the number of float samples of series i.
func (t *Table) Floats(i int) int { return t.entries[i].n }

// NeedsTimes reports whether the timestamps of series i are in a timestamp
// column outside of the table.
func (t *Table) NeedsTimes(i int) bool { return t.entries[i].n > 0 && t.entries[i].timesN == 0 }

// Histograms returns the native histogram chunks of series i. Their data refers
// to the payload's memory.
func (t *Table) Histograms(i int) ([]series.Chunk, error) {
	e := &t.entries[i]
	if e.histograms == 0 {
		return nil, nil
	}
	out := make([]series.Chunk, e.histograms)
	before := t.day - 1
	for k := range out {
		p := &t.histograms[int(e.histogram)+k]
		data := t.b[p.at : p.at+p.n : p.at+p.n]
		out[k] = series.Chunk{MinTime: p.min, MaxTime: p.max, Samples: int(binary.BigEndian.Uint16(data)), Encoding: p.encoding, Data: data}
		if out[k].Samples == 0 || p.min <= before {
			return nil, corrupt("invalid histogram chunk %d of series %d", k, i)
		}
		before = p.max
	}
	return out, nil
}

// AppendFloats appends timestamps (Unix milliseconds) and values of series i.
// times is its timestamp column if NeedsTimes, else nil. On an error it returns
// the slices unchanged.
func (t *Table) AppendFloats(i int, times []byte, ts []int64, vs []float64) ([]int64, []float64, error) {
	e := &t.entries[i]
	if (times != nil) != t.NeedsTimes(i) {
		return ts, vs, corrupt("series %d has timestamps both in the table and in a column, or in neither", i)
	}
	if e.n == 0 {
		return ts, vs, nil
	}
	var tr timesReader
	var err error
	if times != nil {
		err = tr.openColumn(times)
	} else {
		err = tr.open(t.b, int(e.times), int(e.times+e.timesN))
	}
	if err == nil && tr.n != e.n {
		err = corrupt("%d values at %d timestamps", e.n, tr.n)
	}
	if err == nil && e.n > maxUnproved {
		err = t.prove(e, tr)
	}
	if err != nil {
		return ts, vs, inSeries(i, err)
	}
	nt, nv := len(ts), len(vs)
	ts, vs = slices.Grow(ts, e.n)[:nt+e.n], slices.Grow(vs, e.n)[:nv+e.n]
	if err = tr.fill(ts[nt:], t.day); err == nil {
		err = tr.close()
	}
	if err == nil {
		err = t.values(i, vs[nv:])
	}
	if err != nil {
		return ts[:nt], vs[:nv], inSeries(i, err)
	}
	return ts, vs, nil
}

// prove decodes timestamps and values only to check them. A few bytes can
// encode a day of samples, so a corrupt count could make AppendFloats allocate
// much memory; this finds the corruption first.
func (t *Table) prove(e *entry, times timesReader) error {
	if err := times.drain(); err != nil {
		return err
	}
	if e.codec == codecConstant {
		return nil
	}
	return t.decode(e, nil, nil) // too long for codecPrevious
}

// values decodes the values of series i.
func (t *Table) values(i int, dst []float64) error {
	e := &t.entries[i]
	if e.codec == codecConstant {
		if e.valuesEnd-e.values != 8 {
			return corrupt("constant has %d bytes, want 8", e.valuesEnd-e.values)
		}
		v := math.Float64frombits(binary.BigEndian.Uint64(t.b[e.values:]))
		for k := range dst {
			dst[k] = v
		}
		return nil
	}
	wanted := i+1 < len(t.entries) && t.entries[i+1].codec == codecPrevious
	if e.chain == 0 && !wanted {
		return t.decode(e, nil, dst)
	}
	last := t.last.Swap(nil)
	if last == nil {
		last = &integers{i: -1}
	}
	from := i - int(e.chain)
	if last.i >= from && last.i < i && len(last.x) == e.n {
		from = last.i + 1
	}
	last.x = grow(last.x, e.n)
	for k := from; k < i; k++ {
		if err := t.decode(&t.entries[k], last.x, nil); err != nil {
			return inSeries(k, err)
		}
	}
	if err := t.decode(e, last.x, dst); err != nil {
		return err
	}
	last.i = i
	t.last.Store(last)
	return nil
}
