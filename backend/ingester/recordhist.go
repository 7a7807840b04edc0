package ingester

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/encoding"
)

func putHistogram(buf *encoding.Encbuf, h *histogram.Histogram) {
	buf.PutByte(histogramInt)
	buf.PutByte(byte(h.CounterResetHint))
	buf.PutVarint64(int64(h.Schema))
	buf.PutBE64(math.Float64bits(h.ZeroThreshold))
	buf.PutBE64(math.Float64bits(h.Sum))
	buf.PutUvarint64(h.Count)
	buf.PutUvarint64(h.ZeroCount)
	putSpans(buf, h.PositiveSpans)
	putSpans(buf, h.NegativeSpans)
	putDeltas(buf, h.PositiveBuckets)
	putDeltas(buf, h.NegativeBuckets)
	putFloatSlice(buf, h.CustomValues)
}

func putFloatHistogram(buf *encoding.Encbuf, h *histogram.FloatHistogram) {
	buf.PutByte(histogramFloat)
	buf.PutByte(byte(h.CounterResetHint))
	buf.PutVarint64(int64(h.Schema))
	buf.PutBE64(math.Float64bits(h.ZeroThreshold))
	buf.PutBE64(math.Float64bits(h.Sum))
	buf.PutBE64(math.Float64bits(h.Count))
	buf.PutBE64(math.Float64bits(h.ZeroCount))
	putSpans(buf, h.PositiveSpans)
	putSpans(buf, h.NegativeSpans)
	putFloatSlice(buf, h.PositiveBuckets)
	putFloatSlice(buf, h.NegativeBuckets)
	putFloatSlice(buf, h.CustomValues)
}

func putSpans(buf *encoding.Encbuf, spans []histogram.Span) {
	buf.PutUvarint(len(spans))
	for _, s := range spans {
		buf.PutVarint64(int64(s.Offset))
		buf.PutUvarint32(s.Length)
	}
}

func putDeltas(buf *encoding.Encbuf, deltas []int64) {
	buf.PutUvarint(len(deltas))
	for _, d := range deltas {
		buf.PutVarint64(d)
	}
}

func putFloatSlice(buf *encoding.Encbuf, values []float64) {
	buf.PutUvarint(len(values))
	for _, v := range values {
		buf.PutBE64(math.Float64bits(v))
	}
}

func getHistogram(d *encoding.Decbuf) *histogram.Histogram {
	h := &histogram.Histogram{CounterResetHint: histogram.CounterResetHint(d.Byte()), Schema: int32(d.Varint64())}
	h.ZeroThreshold = math.Float64frombits(d.Be64())
	h.Sum = math.Float64frombits(d.Be64())
	h.Count, h.ZeroCount = d.Uvarint64(), d.Uvarint64()
	h.PositiveSpans, h.NegativeSpans = getSpans(d), getSpans(d)
	h.PositiveBuckets, h.NegativeBuckets = getDeltas(d), getDeltas(d)
	h.CustomValues = getFloatSlice(d)
	return h
}

func getFloatHistogram(d *encoding.Decbuf) *histogram.FloatHistogram {
	h := &histogram.FloatHistogram{CounterResetHint: histogram.CounterResetHint(d.Byte()), Schema: int32(d.Varint64())}
	h.ZeroThreshold = math.Float64frombits(d.Be64())
	h.Sum = math.Float64frombits(d.Be64())
	h.Count = math.Float64frombits(d.Be64())
	h.ZeroCount = math.Float64frombits(d.Be64())
	h.PositiveSpans, h.NegativeSpans = getSpans(d), getSpans(d)
	h.PositiveBuckets, h.NegativeBuckets = getFloatSlice(d), getFloatSlice(d)
	h.CustomValues = getFloatSlice(d)
	return h
}

func getSpans(d *encoding.Decbuf) []histogram.Span {
	n := count(d, 2)
	if n == 0 {
		return nil
	}
	out := make([]histogram.Span, n)
	for i := range out {
		out[i] = histogram.Span{Offset: int32(d.Varint64()), Length: d.Uvarint32()}
	}
	return out
}

func getDeltas(d *encoding.Decbuf) []int64 {
	n := count(d, 1)
	if n == 0 {
		return nil
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = d.Varint64()
	}
	return out
}

func getFloatSlice(d *encoding.Decbuf) []float64 {
	n := count(d, 8)
	if n == 0 {
		return nil
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Float64frombits(d.Be64())
	}
	return out
}
