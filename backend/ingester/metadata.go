package ingester

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// metadataAge is the age of the oldest packs from which metadata is loaded at
// start. Senders repeat metadata every minute, so newer packs have all metadata that
// is still sent.
const metadataAge = 26 * time.Hour

// metadataIdle is how long an entry is stored that is not sent again and whose
// metric has no series in the head. Senders repeat their metadata every minute.
const metadataIdle = time.Hour

// keptMetadata is the metadata of a metric, and when it was last sent, in Unix
// seconds. Entries that a restart restored have the time of the start.
type keptMetadata struct {
	metadata.Metadata
	seen int64
}

// familySuffixes returns the suffixes of series names in a metric family.
func familySuffixes() [4]string { return [4]string{"_bucket", "_count", "_sum", "_total"} }

// metadataFor returns the metadata of a series' metric, under its own name or under
// the name of its family. The caller holds th.mu.
func (th *tenantHead) metadataFor(metric string) (string, metadata.Metadata, bool) {
	if m, ok := th.metadata[metric]; ok {
		return metric, m.Metadata, true
	}
	for _, suffix := range familySuffixes() {
		family, ok := strings.CutSuffix(metric, suffix)
		if !ok {
			continue
		}
		if m, ok := th.metadata[family]; ok {
			return family, m.Metadata, true
		}
	}
	return "", metadata.Metadata{}, false
}

// metadataSize returns the bytes of the tenant's metadata in a pack.
func (th *tenantHead) metadataSize() int64 {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return int64(th.packedMetadata)
}

// rejectsMetadata returns the reason why an entry cannot be stored: the tenant's
// limit of metrics, or the maximum size of metadata in a pack. It returns "" if
// there is none. The caller holds th.mu.
func (th *tenantHead) rejectsMetadata(m *series.MetricMetadata, limit int) string {
	old, ok := th.metadata[m.Metric]
	if !ok && limit > 0 && len(th.metadata) >= limit {
		return limits.MaxMetadataMetrics.Name()
	}
	size := pack.MetadataSize(m)
	if ok {
		size -= pack.MetadataSize(&series.MetricMetadata{Metric: m.Metric, Metadata: old.Metadata})
	}
	if th.packedMetadata+size > pack.MaxTenantMetadata {
		return "metadata_too_large"
	}
	return ""
}

// setMetadata stores an entry that was sent at the time `seen`, in Unix seconds. The
// caller holds th.mu for writing.
func (th *tenantHead) setMetadata(m series.MetricMetadata, seen int64) {
	th.dropMetadata(m.Metric)
	th.metadata[m.Metric] = &keptMetadata{Metadata: m.Metadata, seen: seen}
	th.packedMetadata += pack.MetadataSize(&m)
	th.grow(metadataSize(&m))
}

// metadataSize returns the bytes that an entry uses in memory.
func metadataSize(m *series.MetricMetadata) int64 {
	return metadataBytes + allocated(uint64(len(m.Metric))) + allocated(uint64(len(m.Unit))) + allocated(uint64(len(m.Help)))
}

// keepMetadata stores an entry from a pack or from the log, if the size limit
// allows it.
func (th *tenantHead) keepMetadata(m series.MetricMetadata, seen int64) {
	if th.rejectsMetadata(&m, 0) == "" {
		th.setMetadata(m, seen)
	}
}

// dropMetadata removes the entry of a metric. The caller holds th.mu for writing.
func (th *tenantHead) dropMetadata(metric string) {
	if old, ok := th.metadata[metric]; ok {
		m := series.MetricMetadata{Metric: metric, Metadata: old.Metadata}
		th.packedMetadata -= pack.MetadataSize(&m)
		th.grow(-metadataSize(&m))
		delete(th.metadata, metric)
	}
}

// sweepMetadata removes entries that were not sent since the given time (Unix
// seconds) and whose metric has no series in the head: a series in the head will be
// sealed with its metadata.
func (th *tenantHead) sweepMetadata(since int64) {
	gone := th.staleMetadata(since)
	if len(gone) == 0 {
		return
	}
	last := ""
	th.each(func(s *memSeries) {
		if name := s.labels.Get(model.MetricNameLabel); name != last {
			last = name
			spare(gone, name)
		}
	})
	th.dropStale(gone, since)
}

// staleMetadata returns the entries that were not sent since a time. If there are
// any, the metrics of added series are recorded in th.touched until dropStale.
func (th *tenantHead) staleMetadata(since int64) map[string]bool {
	gone := map[string]bool{}
	th.mu.RLock()
	for name, m := range th.metadata {
		if m.seen < since {
			gone[name] = true
		}
	}
	th.mu.RUnlock()
	if len(gone) > 0 {
		th.mu.Lock()
		th.touched = map[string]bool{}
		th.mu.Unlock()
	}
	return gone
}

// dropStale removes the entries in `gone`, except those that were sent again, or whose
// metric got a new series, since the call of staleMetadata.
func (th *tenantHead) dropStale(gone map[string]bool, since int64) {
	th.mu.Lock()
	defer th.mu.Unlock()
	for name := range th.touched {
		spare(gone, name)
	}
	th.touched = nil
	for name := range gone {
		if m := th.metadata[name]; m != nil && m.seen < since {
			th.dropMetadata(name)
		}
	}
}

// spare removes from the set the entries that a series' metric may use.
func spare(set map[string]bool, metric string) {
	delete(set, metric)
	for _, suffix := range familySuffixes() {
		if family, ok := strings.CutSuffix(metric, suffix); ok {
			delete(set, family)
		}
	}
}

// Metadata returns a tenant's metadata, sorted by metric.
func (ing *Ingester) Metadata(id tenant.ID) []series.MetricMetadata {
	th := ing.head(id, false)
	if th == nil {
		return nil
	}
	th.mu.RLock()
	out := make([]series.MetricMetadata, 0, len(th.metadata))
	for name, m := range th.metadata {
		out = append(out, series.MetricMetadata{Metric: name, Metadata: m.Metadata})
	}
	th.mu.RUnlock()
	slices.SortFunc(out, func(a, b series.MetricMetadata) int { return cmp.Compare(a.Metric, b.Metric) })
	return out
}

// loadMetadata loads the metadata of recent packs, because after a restart the log
// may not have it any more.
func (ing *Ingester) loadMetadata() error {
	now := ing.opts.Now()
	since := now.Add(-metadataAge).UnixMilli()
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
				th.keepMetadata(m, now.Unix())
			}
		}
		return nil
	})
}
