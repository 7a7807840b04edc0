package chaos

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// hostileSeries is one series of a request with its samples in the order of sending.
type hostileSeries struct {
	labels    labels.Labels
	points    []point
	exemplars []exemplarSent
}

type exemplarSent struct {
	labels labels.Labels
	v      float64
	t      int64
}

type metadataSent struct {
	metric, help, unit string
	kind               int32
}

// hostileRequest is one request of a hostile tenant. The samples in `beyond` must be
// rejected with the reason. If the tenant has no limits, the samples in `good` must be
// accepted, except that with a reason and without samples in `beyond` the request may be
// rejected for that reason, as a whole or in part.
type hostileRequest struct {
	version      int
	good, beyond []hostileSeries
	metadata     []metadataSent
	reason       string // in the response
	code         int    // the only status allowed for a tenant without limits; 0: beyond and reason decide
}

func samplesOf(all []hostileSeries) int {
	n := 0
	for i := range all {
		n += len(all[i].points)
	}
	return n
}

func (r *hostileRequest) encode() ([]byte, error) {
	all := append(append([]hostileSeries{}, r.good...), r.beyond...)
	var raw []byte
	var err error
	if r.version == 2 {
		raw, err = encodeHostile2(all, r.metadata)
	} else {
		raw, err = encodeHostile1(all, r.metadata)
	}
	return snappy.Encode(nil, raw), err
}

func encodeHostile1(all []hostileSeries, metadata []metadataSent) ([]byte, error) {
	req := prompb.WriteRequest{}
	for _, m := range metadata {
		req.Metadata = append(req.Metadata, prompb.MetricMetadata{MetricFamilyName: m.metric, Type: prompb.MetricMetadata_MetricType(m.kind), Help: m.help, Unit: m.unit})
	}
	for i := range all {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(all[i].labels, nil)}
		for _, p := range all[i].points {
			switch {
			case p.h != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(p.t, p.h))
			case p.fh != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(p.t, p.fh))
			case negativeZero(p.v):
				ts.XXX_unrecognized = appendNegativeZero(ts.XXX_unrecognized, p.t)
			default:
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: p.t, Value: p.v})
			}
		}
		for _, x := range all[i].exemplars {
			ts.Exemplars = append(ts.Exemplars, prompb.Exemplar{Labels: prompb.FromLabels(x.labels, nil), Value: x.v, Timestamp: x.t})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	return req.Marshal()
}

// encodeHostile2 writes start timestamps before, at and after each sample's time,
// unused symbols, and metadata with the series.
func encodeHostile2(all []hostileSeries, metadata []metadataSent) ([]byte, error) {
	st := writev2.NewSymbolTable()
	st.Symbolize("a symbol that nobody refers to")
	req := writev2.Request{}
	for i := range all {
		ts := writev2.TimeSeries{LabelsRefs: st.SymbolizeLabels(all[i].labels, nil)}
		for j, p := range all[i].points {
			start := []int64{0, p.t - 1000, p.t, p.t + 1000, -1}[j%5]
			switch {
			case p.h != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(start, p.t, p.h))
			case p.fh != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(start, p.t, p.fh))
			case negativeZero(p.v):
				ts.XXX_unrecognized = appendNegativeZero(ts.XXX_unrecognized, p.t)
			default:
				ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: p.t, Value: p.v, StartTimestamp: start})
			}
		}
		for _, x := range all[i].exemplars {
			ts.Exemplars = append(ts.Exemplars, writev2.Exemplar{LabelsRefs: st.SymbolizeLabels(x.labels, nil), Value: x.v, Timestamp: x.t})
		}
		if i < len(metadata) {
			m := metadata[i]
			ts.Metadata = writev2.Metadata{Type: writev2.Metadata_MetricType(m.kind), HelpRef: st.Symbolize(m.help), UnitRef: st.Symbolize(m.unit)}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = st.Symbols()
	return req.Marshal()
}

func negativeZero(v float64) bool { return v == 0 && math.Signbit(v) }

// appendNegativeZero appends a sample of -0 to a series; it has the same encoding in
// both versions. The generated code would omit -0 like 0.
func appendNegativeZero(to []byte, t int64) []byte {
	smp := binary.LittleEndian.AppendUint64([]byte{1<<3 | 1}, math.Float64bits(math.Copysign(0, -1)))
	smp = binary.AppendUvarint(append(smp, 2<<3), uint64(t))
	return append(append(to, 2<<3|2, byte(len(smp))), smp...)
}

// mark is the part of a value that the ledger of a hostile tenant stores.
type mark struct {
	print  uint64 // hash of the value, equal for every form in which storage may return it
	rank   rank
	number float64 // the value of a float
	acked  bool
}

// rank orders the values that were sent for one time: a value beats a staleness marker,
// a histogram beats a float, an integer histogram beats a float histogram, a number
// beats NaN.
type rank uint8

const (
	rankStale rank = iota
	rankNaN
	rankFloat
	rankFloatHistogram
	rankHistogram
)

// beats reports whether a value takes precedence over another one at the same timestamp, if
// a mark is enough to decide: histograms of one kind are not compared.
func (m mark) beats(o mark) bool {
	return m.rank > o.rank || m.rank == rankFloat && o.rank == rankFloat && m.number > o.number
}

func markOf(p *point) mark {
	h := xxhash.New()
	switch {
	case p.h != nil && value.IsStaleNaN(p.h.Sum):
		return mark{print: 1, rank: rankStale}
	case p.fh != nil && value.IsStaleNaN(p.fh.Sum):
		return mark{print: 2, rank: rankStale}
	case p.h != nil:
		c := p.h.Copy().Compact(0)
		hashNumbers(h.Write, 3, c.Count, c.ZeroCount, c.PositiveBuckets, c.NegativeBuckets)
		hashNumbers(h.Write, c.Schema, c.ZeroThreshold, c.Sum, spans(c.PositiveSpans), spans(c.NegativeSpans), c.CustomValues)
		return mark{print: h.Sum64(), rank: rankHistogram}
	case p.fh != nil:
		c := p.fh.Copy().Compact(0)
		hashNumbers(h.Write, 4, c.Count, c.ZeroCount, c.PositiveBuckets, c.NegativeBuckets)
		hashNumbers(h.Write, c.Schema, c.ZeroThreshold, c.Sum, spans(c.PositiveSpans), spans(c.NegativeSpans), c.CustomValues)
		return mark{print: h.Sum64(), rank: rankFloatHistogram}
	case value.IsStaleNaN(p.v):
		return mark{print: 0, rank: rankStale}
	}
	hashNumbers(h.Write, 5, p.v+0) // responses of remote read do not distinguish -0 from 0
	if math.IsNaN(p.v) {
		return mark{print: h.Sum64(), rank: rankNaN}
	}
	return mark{print: h.Sum64(), rank: rankFloat, number: p.v}
}

func spans(in []histogram.Span) []int64 {
	var out []int64
	for _, s := range in {
		out = append(out, int64(s.Offset), int64(s.Length))
	}
	return out
}

func hashNumbers(write func([]byte) (int, error), all ...any) {
	buf := make([]byte, 0, 256)
	add := func(n uint64) { buf = binary.LittleEndian.AppendUint64(buf, n) }
	for _, a := range all {
		switch x := a.(type) {
		case int:
			add(uint64(x))
		case int32:
			add(uint64(x))
		case uint64:
			add(x)
		case float64:
			add(math.Float64bits(x))
		case []int64:
			add(uint64(len(x)))
			for _, n := range x {
				add(uint64(n))
			}
		case []float64:
			add(uint64(len(x)))
			for _, n := range x {
				add(math.Float64bits(n))
			}
		default:
			panic(fmt.Sprintf("hash %T", a))
		}
	}
	_, _ = write(buf)
}
