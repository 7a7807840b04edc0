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
	// SealDelay is the time after a window's end at which it is sealed.
	SealDelay  = 15 * time.Minute
	lateDelay  = time.Hour        // time after the first late sample at which late samples are sealed
	idleSeries = 30 * time.Minute // time without samples after which a sealed series leaves the head
	tickEvery  = 10 * time.Second
	sweepEvery = 10 * time.Minute
	farWindows = 2 // samples at least this many windows after the start of the current one are in the far future
)

// run seals windows after their end, saves the list of active series, and deletes
// expired packs, until ctx is done.
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
				ing.opts.Logger.Error("failed to flush the head; retrying when the window ends", "err", err)
			}
			continue
		}
		if err := ing.sealDue(); err != nil {
			ing.opts.Logger.Error("failed to seal; retrying", "err", err)
		}
		ing.saveActiveDue()
		if now := ing.opts.Now(); since(now, swept) >= sweepEvery {
			swept = now
			if err := ing.Sweep(); err != nil {
				ing.opts.Logger.Error("failed to delete expired packs; retrying", "err", err)
			}
		}
	}
}

// sealDue seals a window that ended, late samples that waited long enough, or the
// whole head if memory or disk are nearly full.
func (ing *Ingester) sealDue() error {
	now := ing.opts.Now()
	bound := series.WindowStart(now.Add(-SealDelay).UnixMilli())
	ing.dropPressed(now) // may make an early seal unnecessary
	if done, err := ing.sealEarly(now); done {
		return err
	}
	late := ing.lateFrom.Load()
	ing.correctBorder(now.UnixMilli())
	ing.cutAtBorder(now.UnixMilli())
	if bound > ing.sealed.Load() || (late > 0 && since(now, time.UnixMilli(late)) >= lateDelay) {
		return ing.seal(bound)
	}
	return nil
}

// Flush seals the whole head, including open windows.
func (ing *Ingester) Flush() error { return ing.seal(endOfTime) }

// flushSoon requests a Flush and does not wait for it.
func (ing *Ingester) flushSoon() {
	select {
	case ing.flushNow <- struct{}{}:
	default: // a flush is requested already
	}
}

// farFrom returns the start of the far future. Samples at or after it are sealed
// without waiting for their window to end, because the log could not be deleted
// until then. Only senders with a wrong clock send such samples.
func farFrom(now time.Time) int64 {
	return series.WindowStart(now.UnixMilli()) + farWindows*series.WindowMillis
}

// seal cuts the log, writes all samples before the time `bound` and in the far future
// into packs, serves the packs, and deletes the log that is no longer needed.
// Samples of the window that just ended (the current window if `bound` is endOfTime)
// go into one pack, all others into separate packs, so that most packs have one
// window.
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
	far, idle := farFrom(start), idleTimesAt(start, ing.idleAfter()) // before the seal frees memory
	// Sync before locking the gate: pushes then wait only for the sync of the records
	// that are written until the cut.
	if err := ing.log.SyncAll(); err != nil {
		ing.opts.Logger.Warn("failed to sync the write-ahead log before a seal", "err", err)
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
	default: // the uploader will run anyway
	}
	if bound != endOfTime {
		ing.sealed.Store(max(bound, ing.sealed.Load()))
	}
	ing.saveActive() // before replay skips the sealed samples, so that series are always in the log or in this list
	needed, err := ing.seals.add(seal{BeforeSegment: cut.Segment, BeforeTime: bound, FromTime: far}, cut)
	if err != nil {
		return err
	}
	if err := ing.truncateLog(needed); err != nil {
		return err
	}
	ing.disk.readFree()
	ing.dropIdle(idle)
	ing.metrics.seals.Inc()
	ing.metrics.asides.Add(float64(s.aside))
	if s.series > 0 {
		ing.opts.Logger.Info("sealed samples into packs", "series", s.series, "samples", s.samples, "packs", s.paths,
			"took", ing.opts.Now().Sub(start).Round(time.Millisecond))
	}
	return nil
}

// metadataOf returns the metadata of the metrics in the list, sorted by metric.
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
