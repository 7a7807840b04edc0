package claims

import (
	"time"

	"github.com/palliumhq/pallium/backend/schema"
)

// others reports whether a row is claimed for a notification about other alerts.
func (a *Attempt) others(row schema.Notification) bool {
	return row.Holder != "" && row.Content != a.Content
}

// unsure decides whether to notify although no notification is due according to the row. A replica has disappeared with a
// claim for other alerts, and may have sent a notification about them. Therefore a notification about all alerts is due, as
// soon as this replica has received newer states than those of the claim, or had enough time to receive them.
func (c *Claims) unsure(a *Attempt) (bool, error) {
	c.mu.Lock()
	seen, since := c.seen(a.Key), c.opts.Running()-c.of(a.Key).seen
	c.mu.Unlock()
	if !a.Learned.After(seen) && since < learnTime {
		return false, ErrUnsure
	}
	entry, err := a.Unsure()
	if err != nil {
		return false, err
	}
	due, _, err := a.Due(entry)
	return due, err
}

// due decides whether a notification is due. entry is the last notification, flushed the time of its flush in Unix
// milliseconds.
func (c *Claims) due(a *Attempt, entry string, flushed int64) (bool, error) {
	due, first, err := a.Due(entry)
	if err != nil || !due {
		return false, err
	}
	if entry == "" {
		return true, nil
	}
	last := time.UnixMilli(flushed)
	earliest := last.Add(a.Interval - min(earlySlack, a.Interval/10))
	switch {
	case a.Flushed.Before(last): // the flush is older than the last notification
		return false, ErrEarly
	case !first && a.Flushed.Before(earliest):
		return false, ErrEarly
	case first && !a.Updated.After(last): // the alerts were resolved, but this replica has not received that
		return false, ErrEarly
	}
	return true, nil
}

// flushed returns the time at which the entry of a row was flushed, in Unix milliseconds. It is at most the time at which
// this replica first read the row, because the clock of the replica that wrote it may be fast.
func (c *Claims) flushed(key string, row schema.Notification) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.UnixMilli(row.Flushed).After(c.opts.Now()) {
		return c.seen(key).UnixMilli()
	}
	return row.Flushed
}

// seen returns the time at which this replica first read the current content of a row. c.mu must be locked.
func (c *Claims) seen(key string) time.Time {
	return c.opts.Now().Add(c.of(key).seen - c.opts.Running())
}
