package ingester

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Push logs and applies the samples of a batch whose labels are valid. Without
// replication it returns when the samples counted in the outcome are durable, with
// replication when they are in the log, which is synced every second. After an error
// the sender should send the request again; repeated samples are harmless.
func (ing *Ingester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	size, err := ing.disk.admit(b)
	if err != nil {
		return series.Outcome{}, err
	}
	defer ing.disk.done(size)
	ing.gate.enter(ing.opts.Now)
	defer ing.gate.RUnlock()
	var out series.Outcome
	if ing.stopped || ing.leaving {
		return out, ErrStopped
	}
	if err := ing.checkMemory(b.Tenant); err != nil {
		return out, err
	}
	if err := ing.aside.check(b.Tenant); err != nil {
		return out, err
	}
	lim := ing.limitsOf(b)
	th := ing.head(b.Tenant, true)
	w := writeRecord{batch: b, th: th, series: ing.resolve(th, b, lim, &out), labels: ing.labels, seals: ing.seals, find: newFinder()}
	w.survey(farFrom(ing.opts.Now()))
	w.reserve(&out)
	defer w.release()
	if changed := ing.changedMetadata(th, b.Metadata, lim.MaxMetadataMetrics); len(changed) != len(b.Metadata) {
		b.Metadata = changed
	}
	if err := ing.logWrite(&w, lim.MaxExemplars > 0); err != nil {
		th.forget(b.Metadata)
		return series.Outcome{}, err
	}
	if err := ing.apply(th, &w, lim, &out); err != nil {
		return series.Outcome{}, err
	}
	return out, nil
}

// limitsOf returns the limits for a batch: the limits that it carries, or the
// tenant's current limits if it came from another process.
func (ing *Ingester) limitsOf(b *series.Batch) *limits.Limits {
	if b.Limits != nil {
		return b.Limits
	}
	lim := ing.opts.Limits(b.Tenant)
	return &lim
}

// survey summarizes the times of the batch, and finds whether it has histograms and
// exemplars.
func (w *writeRecord) survey(far int64) {
	times, histograms := noTimes(), false
	for i := range w.batch.Entries {
		w.exemplars = w.exemplars || len(w.batch.Entries[i].Exemplars) > 0
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

// logWrite appends the accepted part of a request to the log and, without
// replication, syncs it.
func (ing *Ingester) logWrite(w *writeRecord, keepExemplars bool) error {
	buf, ok := ing.bodies.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	w.body = *buf
	if w.exemplars = w.exemplars && keepExemplars; w.exemplars {
		w.dropOldExemplars()
	}
	w.encode()
	defer func() {
		if *buf = w.body; cap(w.body) <= maxPooledBody {
			ing.bodies.Put(buf)
		}
	}()
	if len(w.body) == 0 {
		return nil
	}
	ing.cutAtBorder(w.times.near)
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

// dropOldExemplars removes the exemplars that the ring would drop.
func (w *writeRecord) dropOldExemplars() {
	for i, s := range w.series {
		if e := &w.batch.Entries[i]; s != nil && len(e.Exemplars) > 0 {
			e.Exemplars = w.th.exemplars.acceptable(s.labels, e.Exemplars)
		}
	}
}

// maxPooledBody is the largest capacity of a record's buffer that is reused.
const maxPooledBody = 1 << 20

// apply appends the logged samples to the head.
func (ing *Ingester) apply(th *tenantHead, w *writeRecord, lim *limits.Limits, out *series.Outcome) error {
	var bounds timeBounds
	var grown int64
	defer func() {
		th.grow(grown)
		if bounds.any { // also after an error: reads return the samples that were applied
			ing.changes.pushed(th.id, bounds.min)
		}
	}()
	for i, s := range w.series {
		if s == nil {
			continue
		}
		e := &w.batch.Entries[i]
		n, err := th.appendAll(s, i, e, &w.find, &bounds, out)
		grown += n
		if err != nil {
			return fmt.Errorf("series %s: %w", e.Labels, err)
		}
		for _, ex := range e.Exemplars {
			there, n := th.exemplars.add(s.labels, ex, lim.MaxExemplars)
			if grown += n; there {
				out.Exemplars++
			}
		}
	}
	ing.noteTimes(th, bounds)
	return nil
}

// appendAll appends an entry's samples, and returns by how many bytes the series
// grew.
func (th *tenantHead) appendAll(
	s *memSeries, entry int, e *series.Entry, f *finder, bounds *timeBounds, out *series.Outcome,
) (grown int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.forget() // other requests may have changed the series since
	same, different := 0, 0
	for j := range e.Samples {
		smp := &e.Samples[j]
		t := smp.T
		isHistogram := smp.IsHistogram()
		res, err := s.append(smp, f)
		if err != nil {
			return th.updateSize(s), err
		}
		switch res {
		case appended:
		case duplicate:
			same++
		case replaced, superseded:
			different++
		}
		bounds.add(t)
		if isHistogram {
			out.Histograms++
		} else {
			out.Samples++
		}
	}
	out.Repeat(entry, same, different)
	return th.updateSize(s), nil
}

// changedMetadata stores new and changed metadata and returns it to be logged.
// Entries beyond the tenant's limit or the size limit of packs are dropped and
// counted; they never cause the rejection of samples.
func (ing *Ingester) changedMetadata(th *tenantHead, all []series.MetricMetadata, limit int) []series.MetricMetadata {
	if len(all) == 0 {
		return nil
	}
	th.mu.Lock()
	defer th.mu.Unlock()
	now := ing.opts.Now().Unix()
	var changed []series.MetricMetadata
	for _, m := range all {
		m.Type = metricType(string(m.Type)) // as stored; otherwise an unknown type would look new each time
		old, ok := th.metadata[m.Metric]
		if ok && old.Metadata == m.Metadata {
			old.seen = now
			continue
		}
		if reason := th.rejectsMetadata(&m, limit); reason != "" {
			ing.metrics.droppedMetadata.WithLabelValues(reason).Inc()
			continue
		}
		// Copy the strings: they point into the request's buffer.
		m = series.MetricMetadata{Metric: strings.Clone(m.Metric), Metadata: metadata.Metadata{
			Type: m.Type, Unit: strings.Clone(m.Unit), Help: strings.Clone(m.Help),
		}}
		th.setMetadata(m, now)
		changed = append(changed, m)
	}
	return changed
}

// forget removes metadata that could not be logged, so that it is logged when it is
// sent again.
func (th *tenantHead) forget(all []series.MetricMetadata) {
	th.mu.Lock()
	defer th.mu.Unlock()
	for _, m := range all {
		th.dropMetadata(m.Metric)
	}
}

// metricType returns the constant for a type's name, so that names share memory.
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

// timeBounds is the time range of a set of samples, and their windows.
type timeBounds struct {
	min, max int64
	any      bool

	window  int64              // start of the window of the last sample
	windows []int64            // starts of all windows
	seen    map[int64]struct{} // set of windows, once there are many
}

// fewWindows is the largest number of windows for which a list is faster than a
// map.
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

// noteTimes records the time range of new samples in the head, and when the first
// sample of an already sealed window arrived.
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
