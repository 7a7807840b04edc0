// Package series has the basic types of the backend: samples, series with their
// position on the ring, write requests and their outcome, read requests and
// chunks, aligned time windows, and the rule that chooses between two values at
// the same timestamp.
package series

import (
	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// Sample is a float or native histogram at T, in Unix milliseconds. At most one
// of H and FH is set; if neither is, V is the value.
type Sample struct {
	T  int64
	V  float64
	H  *histogram.Histogram
	FH *histogram.FloatHistogram
}

// IsHistogram reports whether the sample is a native histogram.
func (s *Sample) IsHistogram() bool { return s.H != nil || s.FH != nil }

// Entry is one series of a write request.
type Entry struct {
	Labels    labels.Labels // sorted; without duplicate names after the distributor's validation
	Hash      uint64        // Labels.Hash(); not unique: series are compared by Labels
	Samples   []Sample
	Exemplars []exemplar.Exemplar
}

// MetricMetadata is the metadata of a metric family, as sent by a client.
type MetricMetadata struct {
	Metric string
	metadata.Metadata
}

// Batch has the series and metadata of one write request of one tenant. Its
// labels and samples may refer to buffers of its owner: a callee that retains
// parts of it must copy them.
type Batch struct {
	Tenant tenant.ID
	// Limits are the tenant's limits when the request reached the process, so
	// that all checks in the process use the same ones. Nil in a batch from
	// another process, whose receiver resolves them. They must not be modified.
	Limits   *limits.Limits
	Entries  []Entry
	Metadata []MetricMetadata
	// Malformed has the parts of the request that the decoder rejected.
	Malformed []Rejection
	// Established is true if another replica already has all these series: an
	// ingester accepts them even beyond the limit of new series.
	Established bool
	// Fence is set in the writes of rulers; nil in all others.
	Fence *Fence
}

// Token returns the position of a series on the ring. It depends on the tenant,
// so that equal series of two tenants are not all on the same ingesters.
func Token(id tenant.ID, labelsHash uint64) uint32 {
	var d xxhash.Digest
	d.ResetWithSeed(labelsHash)
	_, _ = d.WriteString(string(id))
	h := d.Sum64()
	return uint32(h>>32) ^ uint32(h)
}
