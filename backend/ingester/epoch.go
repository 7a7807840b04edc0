package ingester

import (
	"fmt"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// The log is deleted by epochs, and a window is sealed a while after its end:
// were an epoch to reach from one seal to the next, its last segments would have
// samples of the next window and keep the whole epoch until that is sealed, too.
// So an epoch also ends where a window does, with the first sample of the next.

// borderEarly is how long before its time a sample of the next window may end the
// epoch: clocks of senders are ahead by so much at most, usually.
const borderEarly = sealDelay

// cutAtBorder begins a new epoch when the newest sample of a request, or the
// time, is the first beyond the end of a window.
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
		return // it fails for the next record, too, which says so
	}
	ing.border.Store(series.WindowStart(max(now, border)) + series.WindowMillis)
}

// mendBorder sets the border right after the clock was ahead for a while: it would
// not be reached until then, and the epoch would go on.
func (ing *Ingester) mendBorder(now int64) {
	ing.borderMu.Lock()
	defer ing.borderMu.Unlock()
	if next := series.WindowStart(now) + series.WindowMillis; ing.border.Load() > next+series.WindowMillis {
		ing.border.Store(next)
	}
}

// cutFor leaves the present segment before samples are sealed. What a seal of
// everything covers is deleted at once if its epoch ends there.
func (ing *Ingester) cutFor(bound int64) (wal.Place, error) {
	if bound == endOfTime {
		return ing.log.Cut()
	}
	return ing.log.Split()
}

// truncateLog deletes the segments below one. Exemplars are in no pack: those
// that the deleted segments have are written into the log again first.
func (ing *Ingester) truncateLog(needed int) error {
	if ing.log.Oldest() >= needed {
		return nil
	}
	if err := ing.keepExemplars(); err != nil {
		// A disk that is full would stay so if they had to be written first.
		ing.opts.Logger.Warn("exemplars could not be written to the write-ahead log again: a restart forgets them", "err", err)
	}
	if err := ing.log.Truncate(needed); err != nil {
		return err
	}
	ing.labels.forget(needed)
	return nil
}

// exemplarSlice is how many exemplars one record keeps.
const exemplarSlice = 1000

// keepExemplars writes all exemplars into the log.
func (ing *Ingester) keepExemplars() error {
	written, before := false, ing.log.Appended()
	defer func() { ing.keptBytes.Store(ing.log.Appended() - before) }()
	for _, th := range ing.heads() {
		all := th.exemplars.inOrder()
		for len(all) > 0 {
			n := min(len(all), exemplarSlice)
			if _, err := ing.log.Append(&exemplarRecord{th: th, list: all[:n]}); err != nil {
				return fmt.Errorf("keep exemplars in the log: %w", err)
			}
			all, written = all[n:], true
		}
	}
	if !written {
		return nil
	}
	if err := ing.log.SyncAll(); err != nil {
		return fmt.Errorf("keep exemplars in the log: %w", err)
	}
	return nil
}
