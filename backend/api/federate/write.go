package federate

import (
	"fmt"
	"io"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/proto"
)

// Format returns the format that a client accepts: text, or one of the three forms of
// protobuf. OpenMetrics is not one of them.
func Format(h http.Header) expfmt.Format {
	return expfmt.NegotiateAccept(h, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain))
}

// Answer is the samples of a response, divided into families: the samples of one metric
// name and one type.
type Answer struct {
	format   expfmt.Format
	families [][]Sample
}

// NewAnswer divides samples, which are sorted by metric name, into families. It leaves out
// native histograms if the format is text, which cannot express them; those with custom
// buckets become classic histograms.
func NewAnswer(format expfmt.Format, samples []Sample) *Answer {
	a := &Answer{format: format}
	var last *Sample
	for i := range samples {
		s := &samples[i]
		if s.H != nil && !s.H.UsesCustomBuckets() && format.FormatType() == expfmt.TypeTextPlain {
			continue
		}
		if last == nil || last.name() != s.name() || kindOf(last) != kindOf(s) {
			a.families = append(a.families, nil)
		}
		last = s
		n := len(a.families) - 1
		a.families[n] = append(a.families[n], *s)
	}
	return a
}

// kindOf returns the type of the family to which a sample belongs.
func kindOf(s *Sample) dto.MetricType {
	switch {
	case s.H == nil:
		return dto.MetricType_UNTYPED
	case s.H.CounterResetHint == histogram.GaugeType:
		return dto.MetricType_GAUGE_HISTOGRAM
	}
	return dto.MetricType_HISTOGRAM
}

// Memory in bytes of a metric as a message and as text, of one of its labels, and of one
// of its buckets or spans.
const (
	metricBytes  = 500
	labelBytes   = 120
	elementBytes = 100
)

// Bytes returns the memory that Write needs: that of the largest family, since Write encodes one
// family after another.
func (a *Answer) Bytes() int64 {
	most := int64(0)
	for _, family := range a.families {
		n := int64(0)
		for i := range family {
			s := &family[i]
			n += metricBytes + int64(s.Labels.Len()+1)*labelBytes + 2*int64(s.Labels.ByteSize())
			if s.H != nil {
				n += elementBytes * int64(len(s.H.PositiveBuckets)+len(s.H.NegativeBuckets)+
					len(s.H.PositiveSpans)+len(s.H.NegativeSpans)+len(s.H.CustomValues))
			}
		}
		most = max(most, n)
	}
	return most
}

// Write writes the samples to w. After an error, w may have got a part of them.
func (a *Answer) Write(w io.Writer) error {
	enc := expfmt.NewEncoder(w, a.format)
	for _, samples := range a.families {
		f := &dto.MetricFamily{Name: proto.String(samples[0].name()), Type: kindOf(&samples[0]).Enum()}
		for i := range samples {
			f.Metric = append(f.Metric, metric(&samples[i]))
		}
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("encode the samples of a metric: %w", err)
		}
	}
	return nil
}

// metric returns a sample as a message. It has a label instance, which may be empty:
// otherwise the Prometheus that scrapes it would add the address of this server.
func metric(s *Sample) *dto.Metric {
	m := &dto.Metric{TimestampMs: proto.Int64(s.T)}
	instance := false
	s.Labels.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel || l.Value == "" {
			return
		}
		instance = instance || l.Name == model.InstanceLabel
		m.Label = append(m.Label, &dto.LabelPair{Name: proto.String(l.Name), Value: proto.String(l.Value)})
	})
	if !instance {
		m.Label = append(m.Label, &dto.LabelPair{Name: proto.String(model.InstanceLabel), Value: proto.String("")})
	}
	switch {
	case s.H == nil:
		m.Untyped = &dto.Untyped{Value: proto.Float64(s.V)}
	case s.H.UsesCustomBuckets():
		m.Histogram = classic(s.H)
	default:
		m.Histogram = native(s.H)
	}
	return m
}

// native returns an exponential histogram as a message.
func native(h *histogram.FloatHistogram) *dto.Histogram {
	return &dto.Histogram{
		SampleCountFloat: proto.Float64(h.Count),
		SampleSum:        proto.Float64(h.Sum),
		Schema:           proto.Int32(h.Schema),
		ZeroThreshold:    proto.Float64(h.ZeroThreshold),
		ZeroCountFloat:   proto.Float64(h.ZeroCount),
		NegativeSpan:     spans(h.NegativeSpans),
		NegativeCount:    h.NegativeBuckets,
		PositiveSpan:     spans(h.PositiveSpans),
		PositiveCount:    h.PositiveBuckets,
	}
}

func spans(list []histogram.Span) []*dto.BucketSpan {
	var out []*dto.BucketSpan
	for _, s := range list {
		out = append(out, &dto.BucketSpan{Offset: proto.Int32(s.Offset), Length: proto.Uint32(s.Length)})
	}
	return out
}

// classic returns a histogram with custom buckets as a message with cumulative buckets. It leaves
// out the bucket +Inf, which is optional in protobuf; the encoder of text adds it.
func classic(h *histogram.FloatHistogram) *dto.Histogram {
	counts := make([]float64, len(h.CustomValues))
	for it := h.PositiveBucketIterator(); it.Next(); {
		if b := it.At(); int(b.Index) < len(counts) {
			counts[b.Index] = b.Count
		}
	}
	m := &dto.Histogram{SampleCountFloat: proto.Float64(h.Count), SampleSum: proto.Float64(h.Sum)}
	sum := 0.0
	for i, bound := range h.CustomValues {
		sum += counts[i]
		m.Bucket = append(m.Bucket, &dto.Bucket{UpperBound: proto.Float64(bound), CumulativeCountFloat: proto.Float64(sum)})
	}
	return m
}
