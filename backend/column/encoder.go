package column

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// Encoder encodes the payloads of consecutive frames. It must be used by one
// goroutine.
type Encoder struct {
	day    int64 // first millisecond
	series int
	head   []byte
	body   []byte

	stream streamWriter
	times  timesWriter
	lastT  []int64 // the timestamps in column
	column []byte

	scaler    scaler
	choice    chooser
	residuals []int64
	// Integers, exponent and chain length of the previous series, for
	// codecPrevious. before is empty if the next series cannot use them.
	before   []int64
	exponent int
	chain    int
}

// keptSamples is the capacity in samples above which Append releases the
// encoder's buffers.
const keptSamples = 1 << 20

// NewEncoder returns an encoder for the series of a day (days since 1970).
func NewEncoder(day int64) *Encoder {
	e := &Encoder{}
	e.times.stream = &e.stream
	e.Reset(day)
	return e
}

// Reset discards the added series and starts a frame of another day (days since
// 1970).
func (e *Encoder) Reset(day int64) {
	e.day = day * series.DayMillis
	e.lastT = e.lastT[:0]
	e.clear()
}

func (e *Encoder) clear() {
	e.series, e.head, e.body = 0, e.head[:0], e.body[:0]
	e.before, e.chain = e.before[:0], 0
}

// Len returns the number of series added since the last frame.
func (e *Encoder) Len() int { return e.series }

// Size returns an upper bound of the payload's current length in bytes.
func (e *Encoder) Size() int {
	return 1 + binary.MaxVarintLen32 + len(e.head) + len(e.body) + padding
}

// Append appends the payload to b and starts an empty frame.
func (e *Encoder) Append(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(e.series))
	b = append(b, e.head...)
	b = append(b, e.body...)
	b = append(b, make([]byte, padding)...)
	e.clear()
	if cap(e.residuals) > keptSamples {
		// Series this long are rare, and their buffers too large to retain.
		*e = Encoder{day: e.day}
		e.times.stream = &e.stream
	}
	return b
}

// Add appends a series. It returns nil if the frame contains the timestamps or the series has no floats.
// Otherwise it returns a timestamp column, which is valid until the next call
// and may be equal for many series. The caller must store it and pass it to
// Table.AppendFloats. On an error nothing is added.
func (e *Encoder) Add(s *Series) (times []byte, err error) {
	if len(s.T) != len(s.V) {
		return nil, fmt.Errorf("encode series: it has %d timestamps and %d values", len(s.T), len(s.V))
	}
	sameTimes := slices.Equal(s.T, e.lastT)
	if !sameTimes {
		if err := e.checkTimes(s.T); err != nil {
			return nil, fmt.Errorf("encode series: %w", err)
		}
	}
	if err := e.checkHistograms(s.Histograms); err != nil {
		return nil, fmt.Errorf("encode series: %w", err)
	}
	if e.series == maxSeries {
		return nil, fmt.Errorf("encode series: its frame already has %d series", maxSeries)
	}
	head, body := len(e.head), len(e.body)
	e.head = binary.AppendUvarint(e.head, uint64(len(s.V)))
	e.head = binary.AppendUvarint(e.head, uint64(len(s.Histograms)))
	if len(s.V) > 0 {
		if !sameTimes {
			e.lastT = append(e.lastT[:0], s.T...)
			e.column = e.times.append(e.column[:0], s.T, e.day)
			e.column = append(e.column, make([]byte, padding)...)
		}
		times = e.addFloats(s.V)
	} else {
		e.before = e.before[:0]
	}
	e.addHistograms(s.Histograms)
	if e.Size() > maxPayload {
		e.head, e.body, e.before = e.head[:head], e.body[:body], e.before[:0]
		return nil, fmt.Errorf("encode series: its frame would exceed %d bytes", maxPayload)
	}
	e.series++
	return times, nil
}

func (e *Encoder) checkTimes(ts []int64) error {
	before := e.day - 1
	for _, t := range ts {
		if t <= before {
			return fmt.Errorf("its timestamps do not ascend within the day: %d comes after %d", t, before)
		}
		before = t
	}
	if before >= e.day+series.DayMillis {
		return fmt.Errorf("its last timestamp %d is after the end of the day", before)
	}
	return nil
}

func (e *Encoder) checkHistograms(chunks []series.Chunk) error {
	before := e.day - 1
	for i := range chunks {
		c := &chunks[i]
		if c.Encoding != chunkenc.EncHistogram && c.Encoding != chunkenc.EncFloatHistogram {
			return fmt.Errorf("histogram chunk %d has encoding %s", i, c.Encoding)
		}
		if c.MinTime <= before || c.MaxTime < c.MinTime || c.MaxTime >= e.day+series.DayMillis {
			return fmt.Errorf("histogram chunk %d from %d to %d does not follow the previous chunk within the day", i, c.MinTime, c.MaxTime)
		}
		if len(c.Data) < 2 || c.Samples == 0 || c.Samples != int(binary.BigEndian.Uint16(c.Data)) {
			return fmt.Errorf("histogram chunk %d has no samples or does not start with their number, %d", i, c.Samples)
		}
		before = c.MaxTime
	}
	return nil
}

func (e *Encoder) addHistograms(chunks []series.Chunk) {
	end := e.day
	for i := range chunks {
		c := &chunks[i]
		e.head = append(e.head, byte(c.Encoding))
		e.head = binary.AppendUvarint(e.head, uint64(c.MinTime-end))
		e.head = binary.AppendUvarint(e.head, uint64(c.MaxTime-c.MinTime))
		e.head = binary.AppendUvarint(e.head, uint64(len(c.Data)))
		e.body = append(e.body, c.Data...)
		end = c.MaxTime
	}
}

// addFloats appends the values v with the timestamps of e.column. It returns
// e.column if the column is too large for the frame, else nil.
func (e *Encoder) addFloats(v []float64) (times []byte) {
	at := len(e.body)
	c := e.encodeValues(v)
	e.head = append(e.head, byte(c))
	inline := e.column[:len(e.column)-padding]
	if len(inline) > maxInlineTimes {
		e.head = append(e.head, 0)
		times = e.column
	} else {
		e.head = append(e.head, byte(len(inline)))
		e.head = append(e.head, inline...)
	}
	e.head = binary.AppendUvarint(e.head, uint64(len(e.body)-at))
	return times
}

// encodeValues appends values to the body and returns their codec.
func (e *Encoder) encodeValues(v []float64) codec {
	if allEqual(v) {
		e.body = binary.BigEndian.AppendUint64(e.body, math.Float64bits(v[0]))
		e.before = e.before[:0]
		return codecConstant
	}
	e.scaler.ints = grow(e.scaler.ints, len(v))
	exponent := e.scaler.scale(v)
	x := e.scaler.ints
	e.residuals = grow(e.residuals, len(v)-1)

	before := e.before
	if len(before) != len(v) || exponent != e.exponent || e.chain >= maxChain || len(v) > maxChained {
		before = nil
	}
	g := divisor(x)
	c, base := e.choice.choose(x, before, int64(g))
	if c == codecPrevious {
		g = 1
		e.chain++
	} else {
		e.chain = 0
	}
	e.body = append(e.body, byte(int8(exponent)))
	e.body = binary.AppendUvarint(e.body, g)
	e.body = binary.AppendVarint(e.body, x[0])
	e.body = appendExceptions(e.body, e.scaler.exceptions)
	first := residuals(e.residuals, c, x, before, int64(g))
	if c == codecDoD {
		e.body = binary.AppendVarint(e.body, first)
	}
	e.body = e.stream.append(e.body, e.residuals, base)
	if exponent != rawBits {
		e.scaler.exponent = exponent
	}
	e.exponent = exponent
	e.before, e.scaler.ints = e.scaler.ints, e.before
	return c
}

func allEqual(v []float64) bool {
	first := math.Float64bits(v[0])
	for _, f := range v {
		if math.Float64bits(f) != first {
			return false
		}
	}
	return true
}
