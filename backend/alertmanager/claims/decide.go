package claims

import (
	"time"

	"github.com/palliumhq/pallium/backend/schema"
)

// others reports whether a row is claimed for other alerts, which are on their way to the receiver.
func (a *Attempt) others(row schema.Notification) bool {
	return row.Holder != "" && row.Content != a.Content
}

// unsure decides whether a notification is due that is not due after what is recorded, when a replica that claimed it for
// other alerts has disappeared: the receiver may know those. So everything is due, once this replica knows something newer
// than that claim, or had the time to learn it.
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

// due decides whether a notification is due after an entry that was flushed at a time in Unix milliseconds.
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
	case a.Flushed.Before(last): // it does not know what was notified
		return false, ErrEarly
	case !first && a.Flushed.Before(earliest):
		return false, ErrEarly
	case first && !a.Updated.After(last): // the alerts were resolved, which this replica has not received
		return false, ErrEarly
	}
	return true, nil
}

// flushed returns when the entry of a row was flushed, in Unix milliseconds, but not later than this replica has first
// seen the row: the clock of the one that has written it may be fast.
func (c *Claims) flushed(key string, row schema.Notification) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.UnixMilli(row.Flushed).After(c.opts.Now()) {
		return c.seen(key).UnixMilli()
	}
	return row.Flushed
}

// seen returns when this replica has first seen a row as it is. c.mu is locked.
func (c *Claims) seen(key string) time.Time {
	return c.opts.Now().Add(c.of(key).seen - c.opts.Running())
}
