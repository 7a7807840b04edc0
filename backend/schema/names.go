package schema

import (
	"encoding/binary"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/series"
)

// Names lists the metrics and labels in one pack of a tenant's day.
type Names struct {
	Metrics  []Metric                // ascending by name
	Labels   []Label                 // ascending by name; without the metric name
	Metadata []series.MetricMetadata // ascending by family
}

// Metric is a metric of a pack.
type Metric struct {
	Name          string
	Series, Pages int
}

// Label is a label of a pack.
type Label struct {
	Name    string
	Values  int      // number of distinct values
	Buckets []string // first value of each bucket
}

// Encode returns the value of the names cell.
func (n *Names) Encode(c *Codec) []byte {
	b := appendSorted(nil, len(n.Metrics), func(i int) string { return n.Metrics[i].Name })
	for i := range n.Metrics {
		b = binary.AppendUvarint(b, uint64(n.Metrics[i].Series))
	}
	for i := range n.Metrics {
		b = binary.AppendUvarint(b, uint64(n.Metrics[i].Pages))
	}
	b = appendSorted(b, len(n.Labels), func(i int) string { return n.Labels[i].Name })
	for i := range n.Labels {
		l := &n.Labels[i]
		b = binary.AppendUvarint(b, uint64(l.Values))
		b = appendSorted(b, len(l.Buckets), func(k int) string { return l.Buckets[k] })
	}
	b = binary.AppendUvarint(b, uint64(len(n.Metadata)))
	for i := range n.Metadata {
		m := &n.Metadata[i]
		for _, s := range []string{m.Metric, string(m.Type), m.Unit, m.Help} {
			b = appendText(b, s)
		}
	}
	return c.seal(valueNames, 1, b)
}

// DecodeNames decodes the value of a names cell.
func (c *Codec) DecodeNames(value []byte) (Names, error) {
	r, err := c.open(valueNames, 1, "names", value)
	if err != nil {
		return Names{}, err
	}
	var n Names
	metrics := r.sorted("metric names")
	n.Metrics = make([]Metric, len(metrics))
	for i, name := range metrics {
		n.Metrics[i] = Metric{Name: name, Series: int(r.upTo(1<<40, "series of a metric"))}
	}
	for i := range metrics {
		n.Metrics[i].Pages = int(r.upTo(MaxIndex, "pages of a metric"))
	}
	names := r.sorted("label names")
	n.Labels = make([]Label, len(names))
	for i, name := range names {
		n.Labels[i] = Label{Name: name, Values: int(r.upTo(1<<40, "values of a label")), Buckets: r.sorted("first values of buckets")}
	}
	for k := r.count("metadata"); k > 0 && r.err == nil; k-- {
		m := series.MetricMetadata{Metric: r.text("metric"), Metadata: metadata.Metadata{Type: model.MetricType(r.text("type")),
			Unit: r.text("unit"), Help: r.text("help")}}
		n.Metadata = append(n.Metadata, m)
	}
	return n, r.end("names")
}
