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

// metadataAge is how far back in the packs metadata is looked for at start.
// Senders repeat it every few minutes, so older packs have nothing newer.
const metadataAge = 26 * time.Hour

// metadataIdle is how long an entry stays that is not sent again and of whose
// metric no series is in the head. Senders repeat what they have every minute.
const metadataIdle = time.Hour

// keptMetadata is what is known of a metric, and when it was last sent, in Unix
// seconds. After a restart that is the time of the start.
type keptMetadata struct {
	metadata.Metadata
	seen int64
}

// familySuffixes end the names of series that are parts of a family.
func familySuffixes() [4]string { return [4]string{"_bucket", "_count", "_sum", "_total"} }

// metadataFor finds the metadata of a series' metric: under its own name, or
// under that of the family it is a part of. The caller holds th.mu.
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

// metadataSize is how much a tenant's metadata takes in a pack, in bytes.
func (th *tenantHead) metadataSize() int64 {
	th.mu.RLock()
	defer th.mu.RUnlock()
	return int64(th.packedMetadata)
}

// rejectsMetadata says why an entry cannot be taken over: the tenant's limit of
// metrics, or the bytes that a pack has room for; "" when it can. The caller holds
// th.mu.
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

// setMetadata takes over an entry that was sent at a time in Unix seconds. The
// caller holds th.mu for writing.
func (th *tenantHead) setMetadata(m series.MetricMetadata, seen int64) {
	th.dropMetadata(m.Metric)
	th.metadata[m.Metric] = &keptMetadata{Metadata: m.Metadata, seen: seen}
	th.packedMetadata += pack.MetadataSize(&m)
	th.grow(metadataSize(&m))
}

// metadataSize is what an entry takes in memory.
func metadataSize(m *series.MetricMetadata) int64 {
	return metadataBytes + allocated(uint64(len(m.Metric))) + allocated(uint64(len(m.Unit))) + allocated(uint64(len(m.Help)))
}

// keepMetadata takes over an entry of an earlier time, if there is room.
func (th *tenantHead) keepMetadata(m series.MetricMetadata, seen int64) {
	if th.rejectsMetadata(&m, 0) == "" {
		th.setMetadata(m, seen)
	}
}

// dropMetadata forgets what is known of a metric. The caller holds th.mu for
// writing.
func (th *tenantHead) dropMetadata(metric string) {
	if old, ok := th.metadata[metric]; ok {
		m := series.MetricMetadata{Metric: metric, Metadata: old.Metadata}
		th.packedMetadata -= pack.MetadataSize(&m)
		th.grow(-metadataSize(&m))
		delete(th.metadata, metric)
	}
}

// sweepMetadata drops entries that were not sent since a time in Unix seconds and
// of whose metric no series is in the head: a series that is there will be sealed
// with its metadata.
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

// staleMetadata returns the entries that were not sent since a time. When there
// are any, the metrics of series that are added are noted until dropStale.
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

// dropStale drops the entries in gone, but for those that were sent again or of
// whose metric a series was added since staleMetadata.
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

// spare takes the entries out of the set that may be of a series' metric.
func spare(set map[string]bool, metric string) {
	delete(set, metric)
	for _, suffix := range familySuffixes() {
		if family, ok := strings.CutSuffix(metric, suffix); ok {
			delete(set, family)
		}
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
		out = append(out, series.MetricMetadata{Metric: name, Metadata: m.Metadata})
	}
	th.mu.RUnlock()
	slices.SortFunc(out, func(a, b series.MetricMetadata) int { return cmp.Compare(a.Metric, b.Metric) })
	return out
}

// loadMetadata takes over the metadata of recent packs, so that a restart does
// not forget what the log no longer holds.
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
