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

// metadataBytes is about how much a tenant's metadata takes in a pack.
func (th *tenantHead) metadataBytes() int64 {
	th.mu.RLock()
	defer th.mu.RUnlock()
	n := int64(0)
	for name, m := range th.metadata {
		n += int64(len(name)+len(m.Unit)+len(m.Help)) + 16
	}
	return n
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
				th.metadata[m.Metric] = m.Metadata
			}
		}
		return nil
	})
}
