package remotewrite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/palliumhq/pallium/backend/series"
)

// unmarshalV2 reads io.prometheus.write.v2.Request. It reads the symbols in a
// first pass, because they may be anywhere, and then the series.
func (r *Request) unmarshalV2(body []byte) error {
	m := reader{data: body}
	for m.more() {
		num, wire := m.field()
		if num >= 1 && num <= 3 {
			return errors.New("a version 2.0 request has a field of version 1.0: the body and its Content-Type are of different versions")
		}
		if num != 4 {
			m.skip(wire)
			continue
		}
		if m.expect(wire, wireBytes, "symbols") {
			r.symbols = append(r.symbols, text(m.bytes()))
			if err := r.use(symbolBytes); err != nil {
				return err
			}
		}
	}
	if m.err != nil {
		return m.err
	}
	if len(r.symbols) > 0 && r.symbols[0] != "" {
		return errors.New("the first symbol must be the empty string")
	}
	m = reader{data: body}
	for m.more() {
		num, wire := m.field()
		if num != 5 {
			m.skip(wire)
			continue
		}
		if !m.expect(wire, wireBytes, "timeseries") {
			break
		}
		if err := r.seriesV2(m.bytes()); err != nil {
			return err
		}
	}
	return m.err
}

func (r *Request) symbol(ref uint64) (string, error) {
	if ref >= uint64(len(r.symbols)) {
		return "", malformed{fmt.Sprintf("it refers to symbol %d, but the request has only %d symbols", ref, len(r.symbols))}
	}
	return r.symbols[ref], nil
}

// symbolBytes is the memory of a symbol without its text, including the spare
// capacity of a growing slice.
const symbolBytes = 32

// seriesV2 reads a TimeSeries.
//
//nolint:gocyclo,funlen // the innermost loop of ingestion: split into functions it is 4% slower
func (r *Request) seriesV2(data []byte) error {
	e, b := r.entry()
	if err := r.countItem(); err != nil {
		return err
	}
	if err := r.use(entryBytes); err != nil {
		return err
	}
	l := labelRefs{r: r, b: b, sorted: true}
	m := reader{data: data}
	var meta []byte
	var bad malformed // why the series is rejected
	for m.more() {
		num, wire := m.field()
		if num > 5 || num == 0 {
			m.skip(wire)
			continue
		}
		if num == 1 && wire == wireVarint { // not packed; allowed by protobuf
			if err := l.add(m.uvarint()); err != nil && !errors.As(err, &bad) {
				return err
			}
			continue
		}
		if !m.expect(wire, wireBytes, "a field of timeseries") {
			break
		}
		field := m.bytes()
		var err error
		if num > 1 {
			if err := r.countItem(); err != nil {
				return err
			}
		}
		if num > 2 {
			if err := r.use(messageFactor * len(field)); err != nil {
				return err
			}
		}
		switch num {
		case 1:
			err = l.addPacked(field)
		case 2:
			err = addSample(e, field)
		case 3:
			err = addHistogramV2(e, field)
		case 4:
			err = r.optional(r.addExemplarV2(e, field))
		case 5:
			meta = field
		}
		if err != nil && !errors.As(err, &bad) {
			return err
		}
	}
	if m.err != nil {
		return m.err
	}
	if bad.text == "" && l.half {
		bad = malformed{"it has a label name without a value"}
	}
	if bad.text != "" {
		r.dropEntry(e, bad)
		return nil
	}
	finish(e, b, l.sorted)
	if len(meta) == 0 {
		return nil
	}
	return r.optional(r.metadataV2(e, meta))
}

// labelRefs converts references to symbols, alternately of names and values, to
// labels.
type labelRefs struct {
	r      *Request
	b      *labels.ScratchBuilder
	half   bool // name is set, its value comes next
	name   string
	last   string
	sorted bool
}

func (l *labelRefs) add(ref uint64) error {
	s, err := l.r.symbol(ref)
	if err != nil {
		return err
	}
	if !l.half {
		l.name, l.half = s, true
		return nil
	}
	l.half = false
	if s == "" {
		return nil // same as a missing label
	}
	if err := checkLabel(l.name, s); err != nil {
		return err
	}
	l.sorted = l.sorted && l.name >= l.last
	l.last = l.name
	l.b.Add(l.name, s)
	if err := l.r.use(labelBytes); err != nil {
		return err
	}
	const overhead = 8 // of an expanded label
	return l.r.expand(len(l.name) + len(s) + overhead)
}

func (l *labelRefs) addPacked(data []byte) error {
	m := reader{data: data}
	for m.more() {
		ref := m.uvarint()
		if m.err != nil {
			break
		}
		if err := l.add(ref); err != nil {
			return err
		}
	}
	return m.err
}

func addHistogramV2(e *series.Entry, data []byte) error {
	var p writev2.Histogram
	if err := p.Unmarshal(data); err != nil {
		return fmt.Errorf("histogram: %w", err)
	}
	s := series.Sample{T: p.Timestamp}
	if p.IsFloatHistogram() {
		s.FH = p.ToFloatHistogram()
	} else {
		s.H = p.ToIntHistogram()
	}
	e.Samples = append(e.Samples, s)
	return nil
}

func (r *Request) addExemplarV2(e *series.Entry, data []byte) error {
	var p writev2.Exemplar
	if err := p.Unmarshal(data); err != nil {
		return fmt.Errorf("exemplar: %w", err)
	}
	b := labels.NewScratchBuilder(len(p.LabelsRefs) / 2)
	l := labelRefs{r: r, b: &b}
	for _, ref := range p.LabelsRefs {
		if err := l.add(uint64(ref)); err != nil {
			return fmt.Errorf("exemplar: %w", err)
		}
	}
	if l.half {
		return malformed{"an exemplar has a label name without a value"}
	}
	b.Sort()
	e.Exemplars = append(e.Exemplars, exemplar.Exemplar{Labels: b.Labels(), Value: p.Value, Ts: p.Timestamp, HasTs: p.Timestamp != 0})
	return nil
}

// metadataV2 adds the metadata of a series to the batch, under its metric family.
// In version 2.0 every series may carry metadata; for consecutive series of one
// family it is added once.
func (r *Request) metadataV2(e *series.Entry, data []byte) error {
	md, err := r.decodeMetadata(data)
	if err != nil {
		return err
	}
	if md.Type == "" && md.Help == "" && md.Unit == "" {
		return nil
	}
	metric := family(e.Labels.Get(model.MetricNameLabel), md.Type)
	if n := len(r.Batch.Metadata); n > 0 && r.Batch.Metadata[n-1].Metric == metric {
		return nil
	}
	if metric == "" {
		return nil
	}
	r.Batch.Metadata = append(r.Batch.Metadata, series.MetricMetadata{Metric: metric, Metadata: md})
	return r.expand(len(metric) + len(md.Help) + len(md.Unit))
}

func (r *Request) decodeMetadata(data []byte) (md metadata.Metadata, _ error) {
	m := reader{data: data}
	for m.more() {
		num, wire := m.field()
		if num == 0 || num > 4 || wire != wireVarint {
			m.skip(wire)
			continue
		}
		v := m.uvarint()
		var err error
		switch num {
		case 1:
			md.Type = typeV2(v)
		case 3:
			md.Help, err = r.symbol(v)
		case 4:
			md.Unit, err = r.symbol(v)
		}
		if err != nil {
			return md, fmt.Errorf("metadata: %w", err)
		}
	}
	return md, m.err
}

func typeV2(v uint64) model.MetricType {
	switch writev2.Metadata_MetricType(v) {
	case writev2.Metadata_METRIC_TYPE_COUNTER:
		return model.MetricTypeCounter
	case writev2.Metadata_METRIC_TYPE_GAUGE:
		return model.MetricTypeGauge
	case writev2.Metadata_METRIC_TYPE_HISTOGRAM:
		return model.MetricTypeHistogram
	case writev2.Metadata_METRIC_TYPE_GAUGEHISTOGRAM:
		return model.MetricTypeGaugeHistogram
	case writev2.Metadata_METRIC_TYPE_SUMMARY:
		return model.MetricTypeSummary
	case writev2.Metadata_METRIC_TYPE_INFO:
		return model.MetricTypeInfo
	case writev2.Metadata_METRIC_TYPE_STATESET:
		return model.MetricTypeStateset
	}
	return ""
}

// family returns the name of the metric family, as used by remote write 1.0 and
// the metadata API: without the suffixes of the series of a histogram or
// summary.
func family(metric string, t model.MetricType) string {
	switch t {
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram, model.MetricTypeSummary:
	default:
		return metric
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if f, ok := strings.CutSuffix(metric, suffix); ok {
			return f
		}
	}
	return metric
}
