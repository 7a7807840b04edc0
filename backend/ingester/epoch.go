package ingester

import (
	"fmt"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// The log is deleted by epochs, and a window is sealed some time after its end. If
// an epoch lasted from one seal to the next, its last segments would have samples
// of the next window, and the whole epoch could not be deleted until that window is
// sealed too. An epoch therefore also ends just before the first sample of the
// next window is written.

// borderEarly is how long before the start of the next window a sample of that
// window may end the epoch. Senders' clocks are rarely further ahead.
const borderEarly = SealDelay

// cutAtBorder begins a new epoch if `newest` is at or after the end of the epoch's window,
// and the current time is at most borderEarly before this end. `newest` is the newest
// timestamp of a request before the far future, or math.MinInt64 if the request has none; for
// a seal, it is the current time.
func (ing *Ingester) cutAtBorder(newest int64) {
	if newest < ing.border.Load() {
		return
	}
	ing.borderMu.Lock()
	defer ing.borderMu.Unlock()
	now, border := ing.opts.Now().UnixMilli(), ing.border.Load()
	if newest < border || now < border-borderEarly.Milliseconds() {
		return
	}
	if _, err := ing.log.Cut(); err != nil {
		return // Append fails for the same reason and reports the error.
	}
	ing.border.Store(series.WindowStart(max(now, border)) + series.WindowMillis)
}

// correctBorder corrects the border after the clock was ahead for a while. Otherwise
// the border would be far in the future and the epoch would not end until then.
func (ing *Ingester) correctBorder(now int64) {
	ing.borderMu.Lock()
	defer ing.borderMu.Unlock()
	if next := series.WindowStart(now) + series.WindowMillis; ing.border.Load() > next+series.WindowMillis {
		ing.border.Store(next)
	}
}

// cutFor ends the current segment before a seal. A seal of the whole head ends the
// epoch, so that the log can be deleted at once.
func (ing *Ingester) cutFor(bound int64) (wal.Place, error) {
	if bound == endOfTime {
		return ing.log.Cut()
	}
	return ing.log.Split()
}

// truncateLog deletes the segments with numbers below `needed`. Exemplars are in no pack,
// so they are first written to the log again.
func (ing *Ingester) truncateLog(needed int) error {
	if ing.log.Oldest() >= needed {
		return nil
	}
	if err := ing.keepExemplars(); err != nil {
		// Truncate anyway: otherwise a full disk would stay full.
		ing.opts.Logger.Warn("failed to copy exemplars to the new write-ahead log segment: they will be lost at a restart", "err", err)
	}
	if err := ing.log.Truncate(needed); err != nil {
		return err
	}
	ing.labels.forget(needed)
	return nil
}

// exemplarSlice is the maximum number of exemplars in one record.
const exemplarSlice = 1000

// keepExemplars writes all exemplars to the log.
func (ing *Ingester) keepExemplars() error {
	written, before := false, ing.log.Appended()
	defer func() { ing.keptBytes.Store(ing.log.Appended() - before) }()
	for _, th := range ing.heads() {
		all := th.exemplars.inOrder()
		for len(all) > 0 {
			n := min(len(all), exemplarSlice)
			if _, err := ing.log.Append(&exemplarRecord{th: th, list: all[:n]}); err != nil {
				return fmt.Errorf("write exemplars to the log again: %w", err)
			}
			all, written = all[n:], true
		}
	}
	if !written {
		return nil
	}
	if err := ing.log.SyncAll(); err != nil {
		return fmt.Errorf("write exemplars to the log again: %w", err)
	}
	return nil
}
