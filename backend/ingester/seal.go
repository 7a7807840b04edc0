package ingester

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

const (
	sealDelay  = 15 * time.Minute // after a window's end
	lateDelay  = time.Hour        // how long late samples gather before they are sealed
	idleSeries = 30 * time.Minute // a sealed series without samples leaves the head after this
	tickEvery  = 10 * time.Second
	sweepEvery = 10 * time.Minute
)

// run seals windows as they end and deletes expired packs, until ctx is done.
func (ing *Ingester) run(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	swept := ing.opts.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-ing.flushNow:
			if err := ing.Flush(); err != nil {
				ing.opts.Logger.Error("flush failed, it will be tried again when the window ends", "err", err)
			}
			continue
		}
		if err := ing.sealDue(); err != nil {
			ing.opts.Logger.Error("sealing failed, it will be tried again", "err", err)
		}
		if now := ing.opts.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			if err := ing.Sweep(); err != nil {
				ing.opts.Logger.Error("deleting expired packs failed, it will be tried again", "err", err)
			}
		}
	}
}

// sealDue seals what is due: a window that ended, late samples that waited long
// enough, or everything when memory or disk are nearly full.
func (ing *Ingester) sealDue() error {
	now := ing.opts.Now()
	bound := series.WindowStart(now.Add(-sealDelay).UnixMilli())
	if ing.sealEarly(now) {
		return ing.seal(endOfTime)
	}
	late := ing.lateFrom.Load()
	if bound > ing.sealed.Load() || (late > 0 && now.UnixMilli()-late >= lateDelay.Milliseconds()) {
		return ing.seal(bound)
	}
	return nil
}

// Flush seals everything that is in the head now, open windows too.
func (ing *Ingester) Flush() error { return ing.seal(endOfTime) }

// FlushSoon asks for a Flush and does not wait for it.
func (ing *Ingester) FlushSoon() {
	select {
	case ing.flushNow <- struct{}{}:
	default: // one is asked for already
	}
}

// seal writes all samples before bound into packs, serves them from there, and
// cuts the log. Samples of the window that just ended go into one pack, older
// and younger ones into another, so that most packs hold one window.
func (ing *Ingester) seal(bound int64) error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	return ing.sealLocked(bound)
}

func (ing *Ingester) sealLocked(bound int64) error {
	start := ing.opts.Now()
	window := bound - series.WindowMillis
	if bound == endOfTime {
		window = series.WindowStart(start.UnixMilli())
	}
	// Most of what Cut syncs is synced before pushes have to wait for it.
	if err := ing.log.SyncAll(); err != nil {
		ing.opts.Logger.Warn("write-ahead log could not be synced before a seal", "err", err)
	}
	ing.gate.Lock()
	cut, err := ing.log.Cut()
	late := ing.lateFrom.Swap(0)
	ing.unsealed.begin(bound)
	ing.gate.Unlock()
	if err != nil {
		ing.unsealed.end(false)
		ing.lateFrom.CompareAndSwap(0, late)
		return err
	}
	s := &sealer{ing: ing, window: window, bound: bound}
	if err := s.write(); err != nil {
		for _, m := range s.taken {
			m.failed()
		}
		ing.unsealed.end(false)
		ing.lateFrom.CompareAndSwap(0, late)
		ing.metrics.sealFailures.Inc()
		return errors.Join(fmt.Errorf("seal: %w", err), s.abort())
	}
	for _, m := range s.taken {
		m.sealed()
	}
	ing.unsealed.end(true)
	select {
	case ing.uploadNow <- struct{}{}:
	default: // it will look anyway
	}
	if bound != endOfTime {
		ing.sealed.Store(max(bound, ing.sealed.Load()))
	}
	needed, err := ing.seals.add(seal{BeforeSegment: cut, BeforeTime: bound})
	if err != nil {
		return err
	}
	if err := ing.log.Truncate(needed); err != nil {
		return err
	}
	ing.disk.look()
	ing.dropIdle(start.Add(-idleSeries).UnixMilli())
	ing.metrics.seals.Inc()
	if s.series > 0 {
		ing.opts.Logger.Info("sealed", "series", s.series, "samples", s.samples, "packs", s.paths, "took", ing.opts.Now().Sub(start).Round(time.Millisecond))
	}
	return nil
}

// sizeOf is what closed chunks take in memory.
func sizeOf(chunks []series.Chunk) int64 {
	n := int64(0)
	for _, c := range chunks {
		n += int64(len(c.Data)) + chunkOverhead
	}
	return n
}

// sealer writes the packs of one seal.
type sealer struct {
	ing           *Ingester
	window, bound int64
	taken         []*memSeries

	writers [2]*pack.Writer // of the window, and of all other times
	paths   []string

	series, samples int
}

// sealedSeries is one series on its way into a pack.
type sealedSeries struct {
	labels labels.Labels
	metric string
	chunks []series.Chunk
}

func (s *sealer) write() error {
	heads := s.ing.heads()
	slices.SortFunc(heads, func(a, b *tenantHead) int { return strings.Compare(string(a.id), string(b.id)) })
	for _, th := range heads {
		if err := s.writeTenant(th); err != nil {
			return fmt.Errorf("tenant %s: %w", th.id, err)
		}
	}
	for i, w := range s.writers {
		if w == nil {
			continue
		}
		if _, err := w.Close(); err != nil {
			return err
		}
		s.writers[i] = nil
	}
	for i, path := range s.paths {
		if err := s.ing.packs.open(path); err != nil {
			// Packs that are served already hold the same samples as the head will
			// again; that is harmless. Those that are not are removed.
			for _, p := range s.paths[i:] {
				err = errors.Join(err, os.Remove(p))
			}
			return err
		}
	}
	return nil
}

func (s *sealer) abort() error {
	var errs error
	for _, w := range s.writers {
		if w != nil {
			errs = errors.Join(errs, w.Abort())
		}
	}
	return errs
}

// writeTenant takes a tenant's chunks and writes them by day, those of the
// window apart.
func (s *sealer) writeTenant(th *tenantHead) error {
	byDay := [2]map[int64][]sealedSeries{{}, {}}
	for _, m := range th.all() {
		chunks, err := m.take(s.bound)
		if err != nil {
			return err
		}
		if len(chunks) == 0 {
			continue
		}
		s.taken = append(s.taken, m)
		if chunks, err = series.Normalize(chunks); err != nil {
			return fmt.Errorf("series %s: %w", m.labels, err)
		}
		s.series++
		s.deal(m, chunks, &byDay)
	}
	for i, days := range byDay {
		for _, day := range slices.Sorted(maps.Keys(days)) {
			if err := s.writeSection(i, th, day, days[day]); err != nil {
				return err
			}
		}
	}
	return nil
}

// deal sorts the chunks of a series to the pack and day they belong to.
func (s *sealer) deal(m *memSeries, chunks []series.Chunk, byDay *[2]map[int64][]sealedSeries) {
	for _, c := range chunks {
		s.samples += c.Samples
		i := 1
		if series.WindowStart(c.MinTime) == s.window {
			i = 0
		}
		day := series.Day(c.MinTime)
		list := byDay[i][day]
		if n := len(list); n > 0 && labels.Equal(list[n-1].labels, m.labels) {
			list[n-1].chunks = append(list[n-1].chunks, c)
		} else {
			list = append(list, sealedSeries{labels: m.labels, metric: m.labels.Get(model.MetricNameLabel), chunks: []series.Chunk{c}})
		}
		byDay[i][day] = list
	}
}

func (s *sealer) writeSection(i int, th *tenantHead, day int64, list []sealedSeries) error {
	w, err := s.writer(i)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b sealedSeries) int {
		if c := strings.Compare(a.metric, b.metric); c != 0 {
			return c
		}
		return labels.Compare(a.labels, b.labels)
	})
	if err := w.StartSection(th.id, day, th.metadataOf(list)); err != nil {
		return err
	}
	for _, sr := range list {
		if err := w.Add(sr.labels, sr.chunks); err != nil {
			return err
		}
	}
	return nil
}

// writer returns the pack writer for the window (0) or for other times (1).
func (s *sealer) writer(i int) (*pack.Writer, error) {
	if s.writers[i] != nil {
		return s.writers[i], nil
	}
	id := ulid.Make()
	dir := filepath.Join(s.ing.packs.dir, "late")
	if i == 0 {
		dir = filepath.Join(s.ing.packs.dir, fmt.Sprint(series.Day(s.window)),
			fmt.Sprintf("%02d", s.window%series.DayMillis/series.WindowMillis))
	}
	path := filepath.Join(dir, s.ing.opts.ID+"-"+id.String()+pack.Suffix)
	w, err := pack.Create(path, pack.Options{ID: id, Level: 0, Source: s.ing.opts.ID, Deletions: s.ing.deletions.number})
	if err != nil {
		return nil, err
	}
	s.writers[i] = w
	s.paths = append(s.paths, path)
	return w, nil
}

// metadataOf returns what is known of the metrics in the list, which is sorted
// by metric.
func (th *tenantHead) metadataOf(list []sealedSeries) []series.MetricMetadata {
	th.mu.RLock()
	defer th.mu.RUnlock()
	var out []series.MetricMetadata
	seen := map[string]bool{}
	for i := range list {
		name, m, ok := th.metadataFor(list[i].metric)
		if ok && !seen[name] {
			seen[name] = true
			out = append(out, series.MetricMetadata{Metric: name, Metadata: m})
		}
	}
	slices.SortFunc(out, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
	return out
}
