package column

import (
	"encoding/binary"
	"fmt"
	"math"
)

func inSeries(i int, err error) error { return fmt.Errorf("series %d of a table: %w", i, err) }

// integerReader decodes the integers of a series in batches.
type integerReader struct {
	codec    codec
	exponent int
	g        int64
	first    int64
	at       int64 // (x - first) / g of the last integer x; for codecPrevious, its x minus the x of the previous series
	step     int64
	stream   reader
}

// decode decodes a series that is not constant: its integers to x and its
// values to dst, unless those are nil. For codecPrevious, x must contain the
// integers of the previous series.
func (t *Table) decode(e *entry, x []int64, dst []float64) error {
	var r integerReader
	r.codec = e.codec
	if x == nil && e.codec == codecPrevious {
		return corrupt("codec previous without a previous series")
	}
	exceptions, err := r.open(t.b, int(e.values), int(e.valuesEnd), e.n)
	if err != nil {
		return err
	}
	if r.codec == codecPrevious {
		r.at = r.first - x[0]
	}
	if x != nil {
		x[0] = r.first
	}
	if dst != nil {
		toFloats(dst[:1], []int64{r.first}, r.exponent)
	}
	var buf [batchSize]int64
	for at := 1; at < e.n; {
		b := buf[:min(batchSize, e.n-at)]
		if err := r.stream.fill(b); err != nil {
			return err
		}
		if r.codec == codecPrevious {
			r.addBefore(b, x[at:at+len(b)])
		} else {
			r.sum(b)
		}
		if x != nil {
			copy(x[at:], b)
		}
		if dst != nil {
			toFloats(dst[at:at+len(b)], b, r.exponent)
		}
		at += len(b)
	}
	if err := r.stream.close(); err != nil {
		return err
	}
	if dst == nil {
		return nil
	}
	return readExceptions(t.b[exceptions:e.valuesEnd], dst)
}

// open reads the fields before the stream, and returns the offset of the
// exceptions.
func (r *integerReader) open(b []byte, pos, end, n int) (exceptions int, err error) {
	in := &r.stream
	if pos >= end {
		return 0, corrupt("values lack an exponent")
	}
	in.b, in.pos, in.end = b, pos+1, end
	r.exponent = int(int8(b[pos]))
	if r.exponent != rawBits && (r.exponent < -maxExponent || r.exponent > maxExponent) {
		return 0, newer("values with exponent %d", r.exponent)
	}
	g, ok1 := in.uvarint()
	first, ok2 := in.varint()
	exceptions = in.pos
	if !ok1 || !ok2 || g == 0 || !r.skipExceptions() {
		return 0, corrupt("invalid header of the values")
	}
	r.g, r.first = int64(g), first
	if r.codec == codecDoD {
		var ok bool
		if r.step, ok = in.varint(); !ok {
			return 0, corrupt("invalid first step of the values")
		}
	}
	return exceptions, in.open(b, in.pos, end, n-1)
}

func (r *integerReader) skipExceptions() bool {
	in := &r.stream
	count, ok := in.uvarint()
	if !ok || count > uint64(in.end-in.pos)/10 {
		return false
	}
	for range count {
		_, ok1 := in.uvarint()
		_, ok2 := in.uvarint()
		if !ok1 || !ok2 || in.end-in.pos < 8 {
			return false
		}
		in.pos += 8
	}
	return true
}

// readExceptions sets the exceptions at the start of b in dst. skipExceptions
// has checked their lengths.
func readExceptions(b []byte, dst []float64) error {
	count, k := binary.Uvarint(b)
	b = b[k:]
	for range count {
		skip, k := binary.Uvarint(b)
		b = b[k:]
		more, k := binary.Uvarint(b)
		b = b[k:]
		if skip >= uint64(len(dst)) || more >= uint64(len(dst))-skip {
			return corrupt("exception after the last value")
		}
		v := math.Float64frombits(binary.BigEndian.Uint64(b))
		b = b[8:]
		dst = dst[skip:]
		for i := range dst[:more+1] {
			dst[i] = v
		}
		dst = dst[more+1:]
	}
	return nil
}

// sum converts residuals to integers.
func (r *integerReader) sum(b []int64) {
	g, first, at := r.g, r.first, r.at
	switch r.codec {
	case codecDelta:
		if g == 1 {
			at += first
			for i, d := range b {
				at += d
				b[i] = at
			}
			r.at = at - first
			return
		}
		for i, d := range b {
			at += d
			b[i] = at*g + first
		}
	case codecDoD:
		step := r.step
		for i, d := range b {
			step += d
			at += step
			b[i] = at*g + first
		}
		r.step = step
	default:
		for i, y := range b {
			b[i] = y*g + first
		}
	}
	r.at = at
}

// addBefore converts residuals of codecPrevious to integers; `before` has the
// integers of the previous series.
func (r *integerReader) addBefore(b, before []int64) {
	before = before[:len(b)]
	at := r.at
	for i, d := range b {
		at += d
		b[i] = at + before[i]
	}
	r.at = at
}

// toFloats converts integers to values.
func toFloats(dst []float64, x []int64, exponent int) {
	dst = dst[:len(x)]
	switch {
	case exponent == rawBits:
		for i, k := range x {
			dst[i] = math.Float64frombits(uint64(k))
		}
	case exponent == 0:
		for i, k := range x {
			dst[i] = float64(k)
		}
	case exponent > 0:
		p := powers[exponent]
		for i, k := range x {
			dst[i] = float64(k) / p
		}
	default:
		p := powers[-exponent]
		for i, k := range x {
			dst[i] = float64(k) * p
		}
	}
}
