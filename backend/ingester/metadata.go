package ingester

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// metadataAge is how far back in the packs metadata is looked for at start.
// Senders repeat it every few minutes, so older packs have nothing newer.
const metadataAge = 26 * time.Hour

// metadataFor finds the metadata of a series' metric: under its own name, or
// under that of the family it is a part of. The caller holds th.mu.
func (th *tenantHead) metadataFor(metric string) (string, metadata.Metadata, bool) {
	if m, ok := th.metadata[metric]; ok {
		return metric, m, true
	}
	for _, suffix := range []string{"_bucket", "_count", "_sum", "_total"} {
		family, ok := strings.CutSuffix(metric, suffix)
		if !ok {
			continue
		}
		if m, ok := th.metadata[family]; ok {
			return family, m, true
		}
	}
	return "", metadata.Metadata{}, false
}

// metadataSize is how much a tenant's metadata takes in a pack, in bytes.
func (th *tenantHead) metadataSize() int64 {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return int64(th.metadataBytes)
}

// refusesMetadata says why an entry cannot be taken over: the tenant's limit of
// metrics, or the bytes that a pack has room for; "" when it can. The caller holds
// th.mu.
func (th *tenantHead) refusesMetadata(m *series.MetricMetadata, limit int) string {
	old, ok := th.metadata[m.Metric]
	if !ok && limit > 0 && len(th.metadata) >= limit {
		return "max_metadata_metrics"
	}
	size := pack.MetadataSize(m)
	if ok {
		size -= pack.MetadataSize(&series.MetricMetadata{Metric: m.Metric, Metadata: old})
	}
	if th.metadataBytes+size > pack.MaxTenantMetadata {
		return "metadata_too_large"
	}
	return ""
}

// setMetadata takes over an entry. The caller holds th.mu for writing.
func (th *tenantHead) setMetadata(m series.MetricMetadata) {
	th.dropMetadata(m.Metric)
	th.metadata[m.Metric] = m.Metadata
	th.metadataBytes += pack.MetadataSize(&m)
}

// keepMetadata takes over an entry of an earlier time, if there is room.
func (th *tenantHead) keepMetadata(m series.MetricMetadata) {
	if th.refusesMetadata(&m, 0) == "" {
		th.setMetadata(m)
	}
}

// dropMetadata forgets what is known of a metric. The caller holds th.mu for
// writing.
func (th *tenantHead) dropMetadata(metric string) {
	if old, ok := th.metadata[metric]; ok {
		th.metadataBytes -= pack.MetadataSize(&series.MetricMetadata{Metric: metric, Metadata: old})
		delete(th.metadata, metric)
	}
}

// Metadata returns a tenant's metrics and what was said of them, by metric.
func (ing *Ingester) Metadata(id tenant.ID) []series.MetricMetadata {
	th := ing.head(id, false)
	if th == nil {
		return nil
	}
	th.mu.RLock()
	out := make([]series.MetricMetadata, 0, len(th.metadata))
	for name, m := range th.metadata {
		out = append(out, series.MetricMetadata{Metric: name, Metadata: m})
	}
	th.mu.RUnlock()
	slices.SortFunc(out, func(a, b series.MetricMetadata) int { return cmp.Compare(a.Metric, b.Metric) })
	return out
}

// loadMetadata takes over the metadata of recent packs, so that a restart does
// not forget what the log no longer holds.
func (ing *Ingester) loadMetadata() error {
	since := ing.opts.Now().Add(-metadataAge).UnixMilli()
	return ing.packs.recent(since, func(r *pack.Reader) error {
		for id := range boundsByTenant(r.Info()) {
			all, err := r.Metadata(id)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				continue
			}
			th := ing.head(id, true)
			for _, m := range all {
				th.keepMetadata(m)
			}
		}
		return nil
	})
}
