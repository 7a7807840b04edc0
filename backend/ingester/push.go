package ingester

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// seriesOverhead is what a series costs in the head beside its labels and
// chunks: the struct, its place in the maps, its first chunk.
const seriesOverhead = 600

// chunkOverhead is what a closed chunk costs beside its bytes: a series.Chunk.
const chunkOverhead = 56

// Push logs and applies the samples of a batch whose labels are valid. It
// returns when what the outcome counts is durable. An error means that the
// sender should repeat the request; repeated samples are harmless.
func (ing *Ingester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	size, err := ing.disk.admit(b)
	if err != nil {
		return series.Outcome{}, err
	}
	defer ing.disk.done(size)
	ing.gate.enter(ing.opts.Now)
	defer ing.gate.RUnlock()
	var out series.Outcome
	if ing.stopped {
		return out, ErrStopped
	}
	if m := ing.opts.MemoryBytes; m > 0 && ing.bytes.Load() > m {
		return out, fmt.Errorf("%w: over its budget of %d bytes while sealing catches up", ErrFull, m)
	}
	if err := ing.aside.check(b.Tenant); err != nil {
		return out, err
	}
	lim := ing.opts.Limits(b.Tenant)
	th := ing.head(b.Tenant, true)
	w := writeRecord{batch: b, series: ing.resolve(th, b, lim, &out), seals: ing.seals}
	w.survey(farFrom(ing.opts.Now()))
	w.reserve(&out)
	defer w.release()
	if changed := ing.changedMetadata(th, b.Metadata, lim.MaxMetadataMetrics); len(changed) != len(b.Metadata) {
		b.Metadata = changed
	}
	if err := ing.logWrite(&w); err != nil {
		th.forget(b.Metadata)
		return series.Outcome{}, err
	}
	if err := ing.apply(th, &w, lim, &out); err != nil {
		return series.Outcome{}, err
	}
	return out, nil
}

// survey finds the times of the batch, and whether it has histograms.
func (w *writeRecord) survey(far int64) {
	times, histograms := noTimes(), false
	for i := range w.batch.Entries {
		samples := w.batch.Entries[i].Samples
		for j := range samples {
			s := &samples[j]
			if s.T >= far {
				times.add(s.T, far)
			} else if s.T > times.near {
				times.near = s.T
			}
			histograms = histograms || s.IsHistogram()
		}
	}
	w.times, w.histograms = times, histograms
}

func (ing *Ingester) logWrite(w *writeRecord) error {
	empty := len(w.batch.Metadata) == 0
	for i, s := range w.series {
		if s != nil && len(w.batch.Entries[i].Samples) > 0 {
			empty = false
			break
		}
	}
	if empty {
		return nil
	}
	p, err := ing.log.Append(w)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLog, err)
	}
	if ing.opts.Replication > 1 {
		return nil
	}
	if err := ing.log.Sync(p); err != nil {
		return fmt.Errorf("%w: %w", ErrLog, err)
	}
	return nil
}

// resolve finds or makes the series of every entry. Entries beyond the series
// limit are refused and stay nil; series that are there always pass.
func (ing *Ingester) resolve(th *tenantHead, b *series.Batch, lim limits.Limits, out *series.Outcome) []*memSeries {
	found := make([]*memSeries, len(b.Entries))
	missing := 0
	th.mu.RLock()
	for i := range b.Entries {
		if found[i] = th.find(b.Entries[i].Hash, b.Entries[i].Labels); found[i] == nil {
			missing++
		}
	}
	th.mu.RUnlock()
	if missing == 0 {
		return found
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	limit := ing.localSeriesLimit(b.Tenant, &lim)
	for i := range b.Entries {
		e := &b.Entries[i]
		if found[i] != nil {
			continue
		}
		if found[i] = th.find(e.Hash, e.Labels); found[i] != nil {
			continue
		}
		if limit > 0 && th.count >= limit {
			out.RefuseEntry(i, "max_active_series",
				fmt.Sprintf("limit max_active_series of %d reached: %d series are active%s; drop labels that vary too much or ask for a higher limit", lim.MaxActiveSeries, th.count, ing.where()),
				len(e.Samples), histogramsOf(e), e.Labels.String)
			continue
		}
		found[i] = ing.newSeries(th, e.Labels.Copy(), e.Hash, ing.nextRef.Add(1))
	}
	return found
}

// histogramsOf counts the native histograms among an entry's samples.
func histogramsOf(e *series.Entry) int {
	n := 0
	for i := range e.Samples {
		if e.Samples[i].IsHistogram() {
			n++
		}
	}
	return n
}

// localSeriesLimit is this ingester's part of a tenant's series limit.
func (ing *Ingester) localSeriesLimit(id tenant.ID, lim *limits.Limits) int {
	if lim.MaxActiveSeries <= 0 {
		return 0
	}
	shard := ing.opts.Replication
	if ing.opts.ShardSize != nil {
		shard = ing.opts.ShardSize(id, lim)
	}
	return max(1, lim.MaxActiveSeries*ing.opts.Replication/max(shard, ing.opts.Replication))
}

// where says whose count an answer has, when it is not the whole tenant's.
func (ing *Ingester) where() string {
	if ing.opts.Replication == 1 {
		return ""
	}
	return " on " + ing.opts.ID + ", which takes its part of them"
}

// newSeries adds a series. The caller holds th.mu for writing.
func (ing *Ingester) newSeries(th *tenantHead, ls labels.Labels, hash, ref uint64) *memSeries {
	s := newMemSeries(ls, hash, ref)
	th.add(s)
	ing.bytes.Add(seriesOverhead + int64(ls.ByteSize()))
	ing.metrics.seriesCreated.Inc()
	return s
}

// apply appends the logged samples to the head.
func (ing *Ingester) apply(th *tenantHead, w *writeRecord, lim limits.Limits, out *series.Outcome) error {
	var bounds timeBounds
	for i, s := range w.series {
		if s == nil {
			continue
		}
		e := &w.batch.Entries[i]
		if err := ing.appendAll(s, i, e, &bounds, out); err != nil {
			return fmt.Errorf("series %s: %w", e.Labels, err)
		}
		for _, ex := range e.Exemplars {
			if th.exemplars.add(s.labels, ex, lim.MaxExemplars) {
				out.Exemplars++
			}
		}
	}
	ing.noteTimes(th, bounds)
	return nil
}

func (ing *Ingester) appendAll(s *memSeries, entry int, e *series.Entry, bounds *timeBounds, out *series.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	closed := len(s.in.Done())
	for j := range e.Samples {
		smp := &e.Samples[j]
		t := smp.T
		isHistogram := smp.IsHistogram()
		res, err := s.append(smp)
		if err != nil {
			return err
		}
		if res == conflict {
			histograms := 0
			if isHistogram {
				histograms = 1
			}
			out.RefuseEntry(entry, "duplicate_timestamp", "another value stands at the timestamp of a sample; send one value for a series and time", 1, histograms, e.Labels.String)
			continue
		}
		bounds.add(t)
		if isHistogram {
			out.Histograms++
		} else {
			out.Samples++
		}
	}
	if done := s.in.Done(); closed < len(done) {
		ing.bytes.Add(sizeOf(done[closed:]))
	}
	return nil
}

// changedMetadata takes over what is new and returns it: only that is logged.
// What is beyond the limit, or beyond what a pack holds, is dropped and counted:
// metadata never costs a sample.
func (ing *Ingester) changedMetadata(th *tenantHead, all []series.MetricMetadata, limit int) []series.MetricMetadata {
	if len(all) == 0 {
		return nil
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	var changed []series.MetricMetadata
	for _, m := range all {
		old, ok := th.metadata[m.Metric]
		if ok && old == m.Metadata {
			continue
		}
		if reason := th.refusesMetadata(&m, limit); reason != "" {
			ing.metrics.droppedMetadata.WithLabelValues(reason).Inc()
			continue
		}
		// What came in points into the request's buffer.
		m = series.MetricMetadata{Metric: strings.Clone(m.Metric), Metadata: metadata.Metadata{
			Type: metricType(string(m.Type)), Unit: strings.Clone(m.Unit), Help: strings.Clone(m.Help),
		}}
		th.setMetadata(m)
		changed = append(changed, m)
	}
	return changed
}

// forget drops metadata that could not be logged, so that it is logged when it
// is sent again.
func (th *tenantHead) forget(all []series.MetricMetadata) {
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, m := range all {
		th.dropMetadata(m.Metric)
	}
}

// metricType is the constant for a type's name, so that no name is kept twice.
func metricType(s string) model.MetricType {
	for _, t := range []model.MetricType{
		model.MetricTypeCounter, model.MetricTypeGauge, model.MetricTypeHistogram, model.MetricTypeGaugeHistogram,
		model.MetricTypeSummary, model.MetricTypeInfo, model.MetricTypeStateset,
	} {
		if s == string(t) {
			return t
		}
	}
	return model.MetricTypeUnknown
}

// timeBounds are the first and last time of a set of samples, and their windows.
type timeBounds struct {
	min, max int64
	any      bool

	window  int64              // start of the window of the last sample
	windows []int64            // starts of all windows
	seen    map[int64]struct{} // the same, once there are many
}

// fewWindows is up to how many windows a list is faster than a map.
const fewWindows = 8

func (b *timeBounds) add(t int64) {
	if !b.any || t < b.window || t-b.window >= series.WindowMillis {
		b.window = series.WindowStart(t)
		b.addWindow()
	}
	if !b.any {
		b.min, b.max, b.any = t, t, true
		return
	}
	b.min, b.max = min(b.min, t), max(b.max, t)
}

func (b *timeBounds) addWindow() {
	if b.seen == nil {
		if slices.Contains(b.windows, b.window) {
			return
		}
		b.windows = append(b.windows, b.window)
		if len(b.windows) <= fewWindows {
			return
		}
		b.seen = map[int64]struct{}{}
		for _, w := range b.windows {
			b.seen[w] = struct{}{}
		}
		return
	}
	if _, ok := b.seen[b.window]; !ok {
		b.seen[b.window] = struct{}{}
		b.windows = append(b.windows, b.window)
	}
}

// noteTimes remembers what the head now covers, and since when it holds samples
// of windows that were sealed already.
func (ing *Ingester) noteTimes(th *tenantHead, b timeBounds) {
	if !b.any {
		return
	}
	th.extend(b.min, b.max)
	ing.unsealed.add(b.windows)
	if b.min < ing.sealed.Load() {
		ing.lateFrom.CompareAndSwap(0, ing.opts.Now().UnixMilli())
	}
}
