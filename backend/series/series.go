// Package series has the nouns of the backend: labels and their place on the
// ring, samples and the request that carries them, aligned windows of time, and
// the one rule by which two values of one timestamp become one.
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

// Sample is one float or native histogram at a time in Unix milliseconds.
// At most one of H and FH is set; with neither, V is the value.
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
	Labels    labels.Labels // sorted, without duplicates once the distributor has passed it
	Hash      uint64        // Labels.Hash(); identity is Labels, the hash only finds it
	Samples   []Sample
	Exemplars []exemplar.Exemplar
}

// MetricMetadata is what a client says of a metric family.
type MetricMetadata struct {
	Metric string
	metadata.Metadata
}

// Batch is what one write request carries for one tenant. Its labels and
// samples may point into buffers of its owner: whoever keeps a part of it
// beyond the call it was given to copies that part.
type Batch struct {
	Tenant tenant.ID
	// Limits are the tenant's, as they were when the request reached the process: all
	// of the process goes by the same. Nil in a batch from another process, whose
	// receiver looks them up. They are not changed.
	Limits   *limits.Limits
	Entries  []Entry
	Metadata []MetricMetadata
	// Malformed is what its decoder took out of the request.
	Malformed []Rejection
	// Established says that another replica has all these series already: an
	// ingester accepts them beyond what it would accept of new ones.
	Established bool
}

// Token is the place of a series on the ring. It depends on the tenant, so that
// equal series of two tenants do not share the same ingesters.
func Token(id tenant.ID, labelsHash uint64) uint32 {
	var d xxhash.Digest
	d.ResetWithSeed(labelsHash)
	_, _ = d.WriteString(string(id))
	h := d.Sum64()
	return uint32(h>>32) ^ uint32(h)
}
