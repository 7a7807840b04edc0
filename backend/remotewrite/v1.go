package remotewrite

import (
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/backend/series"
)

// unmarshalV1 reads prometheus.WriteRequest.
func (r *Request) unmarshalV1(body []byte) error {
	m := reader{data: body}
	for m.more() {
		num, wire := m.field()
		switch num {
		case 1:
			if !m.expect(wire, wireBytes, "timeseries") {
				break
			}
			if err := r.seriesV1(m.bytes()); err != nil {
				return err
			}
		case 3:
			if !m.expect(wire, wireBytes, "metadata") {
				break
			}
			if err := r.metadataV1(m.bytes()); err != nil {
				return err
			}
		case 4, 5: // fields of 2.0 (symbols, timeseries), unused in 1.0
			return errors.New("a version 1.0 request has a field of version 2.0: the body and its Content-Type are of different versions")
		default:
			m.skip(wire)
		}
	}
	return m.err
}

// seriesV1 reads a TimeSeries.
//
//nolint:gocyclo,funlen // the innermost loop of ingestion: split into functions it is about 2% slower
func (r *Request) seriesV1(data []byte) error {
	e, b := r.entry()
	if err := r.countItem(); err != nil {
		return err
	}
	if err := r.use(entryBytes + len(data)); err != nil {
		return err
	}
	m := reader{data: data}
	sorted, last := true, ""
	var bad malformed // why the series is rejected
	for m.more() {
		num, wire := m.field()
		if num > 4 || num == 0 {
			m.skip(wire)
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
			if err := r.use(labelBytes); err != nil {
				return err
			}
			var name, value string
			name, value, err = labelV1(field)
			if value == "" {
				break // same as a missing label
			}
			sorted = sorted && name >= last
			last = name
			b.Add(name, value)
		case 2:
			err = addSample(e, field)
		case 3:
			err = r.optional(addExemplarV1(e, field))
		case 4:
			err = addHistogramV1(e, field)
		}
		if err != nil && !errors.As(err, &bad) {
			return err
		}
	}
	if m.err != nil {
		return m.err
	}
	if bad.text != "" {
		r.dropEntry(e, bad)
		return nil
	}
	finish(e, b, sorted)
	return nil
}

func labelV1(data []byte) (name, value string, err error) {
	m := reader{data: data}
	for m.more() {
		num, wire := m.field()
		switch num {
		case 1:
			if m.expect(wire, wireBytes, "label name") {
				name = text(m.bytes())
			}
		case 2:
			if m.expect(wire, wireBytes, "label value") {
				value = text(m.bytes())
			}
		default:
			m.skip(wire)
		}
	}
	if m.err != nil {
		return "", "", m.err
	}
	return name, value, checkLabel(name, value)
}

// addSample reads a Sample, which is the same in both versions, except for 2.0's
// start_timestamp, which is ignored.
func addSample(e *series.Entry, data []byte) error {
	m := reader{data: data}
	var s series.Sample
	for m.more() {
		num, wire := m.field()
		switch num {
		case 1:
			if m.expect(wire, wireFixed64, "sample value") {
				s.V = m.double()
			}
		case 2:
			if m.expect(wire, wireVarint, "sample timestamp") {
				s.T = int64(m.uvarint())
			}
		default:
			m.skip(wire)
		}
	}
	e.Samples = append(e.Samples, s)
	return m.err
}

func addExemplarV1(e *series.Entry, data []byte) error {
	var p prompb.Exemplar
	if err := p.Unmarshal(data); err != nil {
		return fmt.Errorf("exemplar: %w", err)
	}
	b := labels.NewScratchBuilder(len(p.Labels))
	for _, l := range p.Labels {
		if err := checkLabel(l.Name, l.Value); err != nil {
			return fmt.Errorf("exemplar: %w", err)
		}
		b.Add(l.Name, l.Value)
	}
	b.Sort()
	e.Exemplars = append(e.Exemplars, exemplar.Exemplar{Labels: b.Labels(), Value: p.Value, Ts: p.Timestamp, HasTs: p.Timestamp != 0})
	return nil
}

func addHistogramV1(e *series.Entry, data []byte) error {
	var p prompb.Histogram
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

func (r *Request) metadataV1(data []byte) error {
	if err := r.countItem(); err != nil {
		return err
	}
	if err := r.use(messageFactor * len(data)); err != nil {
		return err
	}
	var p prompb.MetricMetadata
	if err := p.Unmarshal(data); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	name, ok := prompb.MetricMetadata_MetricType_name[int32(p.Type)]
	if !ok { // only the type is lost
		name = string(model.MetricTypeUnknown)
	}
	r.Batch.Metadata = append(r.Batch.Metadata, series.MetricMetadata{
		Metric:   p.MetricFamilyName,
		Metadata: metadata.Metadata{Type: model.MetricType(strings.ToLower(name)), Unit: p.Unit, Help: p.Help},
	})
	return nil
}
