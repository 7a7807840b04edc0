package ingester

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	sealDelay  = 15 * time.Minute // after a window's end
	lateDelay  = time.Hour        // how long late samples gather before they are sealed
	idleSeries = 30 * time.Minute // a sealed series without samples leaves the head after this
	tickEvery  = 10 * time.Second
	sweepEvery = 10 * time.Minute
	farWindows = 2 // samples behind the present window and the next are of the far future
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
		ing.saveActiveDue()
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
	ing.dropPressed(now) // it may save an early seal
	if done, err := ing.sealEarly(now); done {
		return err
	}
	late := ing.lateFrom.Load()
	ing.mendBorder(now.UnixMilli())
	ing.cutAtBorder(now.UnixMilli())
	if bound > ing.sealed.Load() || (late > 0 && now.UnixMilli()-late >= lateDelay.Milliseconds()) {
		return ing.seal(bound)
	}
	return nil
}

// Flush seals everything that is in the head now, open windows too.
func (ing *Ingester) Flush() error { return ing.seal(endOfTime) }

// flushSoon asks for a Flush and does not wait for it.
func (ing *Ingester) flushSoon() {
	select {
	case ing.flushNow <- struct{}{}:
	default: // one is asked for already
	}
}

// farFrom is the time from which samples do not wait for their window to end:
// they would keep the log until then. It is beyond what any clock should be off.
func farFrom(now time.Time) int64 {
	return series.WindowStart(now.UnixMilli()) + farWindows*series.WindowMillis
}

// seal writes all samples before bound into packs, and those of the far future,
// serves them from there, and cuts the log. Samples of the window that just ended
// go into one pack, all others into packs of their own, so that most packs hold
// one window.
func (ing *Ingester) seal(bound int64) error {
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	return ing.sealLocked(bound)
}

func (ing *Ingester) sealLocked(bound int64) error {
	if err := ing.deletions.ready(); err != nil {
		return err
	}
	start := ing.opts.Now()
	window := bound - series.WindowMillis
	if bound == endOfTime {
		defer ing.labels.pause()()
		window = series.WindowStart(start.UnixMilli())
	}
	far, idle := farFrom(start), idleTimesAt(start, ing.idleAfter()) // before what is sealed makes room
	// Most of what Cut syncs is synced before pushes have to wait for it.
	if err := ing.log.SyncAll(); err != nil {
		ing.opts.Logger.Warn("write-ahead log could not be synced before a seal", "err", err)
	}
	ing.gate.Lock()
	cut, err := ing.cutFor(bound)
	late := ing.lateFrom.Swap(0)
	ing.unsealed.begin(bound, far)
	ing.gate.Unlock()
	if err != nil {
		ing.unsealed.end(false)
		ing.lateFrom.CompareAndSwap(0, late)
		return err
	}
	s, err := ing.writePacks(sealTimes{window: window, bound: bound, far: far})
	if err != nil {
		ing.unsealed.end(false)
		ing.lateFrom.CompareAndSwap(0, late)
		ing.metrics.sealFailures.Inc()
		return fmt.Errorf("seal: %w", err)
	}
	s.release()
	ing.unsealed.end(true)
	select {
	case ing.uploadNow <- struct{}{}:
	default: // it will look anyway
	}
	if bound != endOfTime {
		ing.sealed.Store(max(bound, ing.sealed.Load()))
	}
	ing.saveActive() // before replay passes over what was sealed: no moment is without both
	needed, err := ing.seals.add(seal{BeforeSegment: cut.Segment, BeforeTime: bound, FromTime: far}, cut)
	if err != nil {
		return err
	}
	if err := ing.truncateLog(needed); err != nil {
		return err
	}
	ing.disk.look()
	ing.dropIdle(idle)
	ing.metrics.seals.Inc()
	ing.metrics.asides.Add(float64(s.aside))
	if s.series > 0 {
		ing.opts.Logger.Info("sealed", "series", s.series, "samples", s.samples, "packs", s.paths,
			"took", ing.opts.Now().Sub(start).Round(time.Millisecond))
	}
	return nil
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
