package claims

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/backend/schema"
)

// holding is a claim of this replica. One goroutine uses it at a time: first that of renew, and after its end that of send.
type holding struct {
	*Claims
	key   string
	row   schema.Notification // the row as it was last written
	until time.Duration       // time at which sending must have stopped
	// unsure is set if a replica that disappeared may have notified the receiver about other alerts than the recorded
	// ones. This must remain visible in the row.
	unsure bool
}

// send sends the notification while the claim is renewed, and then records it or gives up the claim.
func (h *holding) send(ctx context.Context, a *Attempt) error {
	h.count(1)
	defer h.count(-1)
	lasting, stop := linger(ctx)
	defer stop()
	sending, cancel := context.WithCancelCause(lasting)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		h.renew(sending, cancel)
	}()
	entry, expires, err := a.Send(sending)
	cause := context.Cause(sending)
	cancel(nil)
	<-renewed
	if err == nil {
		h.sent(a.Key, &sent{holder: h.row.Holder, number: h.row.Number, before: h.row.Entry, entry: entry, flushed: a.Flushed.UnixMilli(),
			expires: expires.UnixMilli()})
		return h.finish(ctx, a.Key)
	}
	switch {
	case errors.Is(cause, errRecorded), errors.Is(cause, errLost):
		h.release(ctx, false)
		h.opts.Metrics.lost.Inc()
		return errAgain
	case lasting.Err() != nil:
		h.release(ctx, false)
	default:
		h.release(ctx, !errors.Is(err, ErrNotSent))
	}
	return err
}

// count adds n to the number of notifications in progress, and returns the new number.
func (c *Claims) count(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active += n
	return c.active
}

// linger returns a context that ends lingerTime after ctx if ctx is canceled before its deadline. So a notification in
// progress can be completed when the configuration changes or the process stops.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(claimKept)
	}
	lasting, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	stop := context.AfterFunc(ctx, func() {
		if sleep(lasting, lingerTime) == nil {
			cancel()
		}
	})
	return lasting, func() { stop(); cancel() }
}

// renew renews the claim until the context ends. It cancels the sending if the claim is lost, or if another replica has
// recorded a notification.
func (h *holding) renew(ctx context.Context, cancel context.CancelCauseFunc) {
	next := renewInterval
	for {
		left := h.until - h.opts.Running()
		if left <= 0 {
			cancel(errLost)
			return
		}
		if sleep(ctx, min(next, left)) != nil {
			return
		}
		if h.opts.Running() >= h.until {
			continue
		}
		err := h.again(ctx)
		if errors.Is(err, errLost) || errors.Is(err, errRecorded) {
			cancel(err)
			return
		}
		if next = renewInterval; err != nil {
			next = renewAgain
		}
	}
}

// again renews the claim once. After errLost and errRecorded, sending must stop. After other errors, the renewal is
// retried.
func (h *holding) again(ctx context.Context) error {
	began := h.opts.Running()
	next := h.row
	next.Sequence++
	held, err := h.replace(ctx, h.key, h.row, next)
	if err == nil && held {
		h.row, h.until = next, began+sendLife
		return nil
	}
	row, err := h.look(ctx, h.key)
	if err != nil {
		return err
	}
	recorded := row.Entry != h.row.Entry
	switch {
	case row == next:
		h.row, h.until = next, began+sendLife
		return nil
	case row.Holder != h.row.Holder:
		return errLost
	}
	h.row = row
	if recorded {
		return errRecorded
	}
	return errAgain
}

// release gives up the claim. If that fails, or if h.unsure is set, the claim is not given up, and expires.
func (h *holding) release(ctx context.Context, failed bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	for {
		next := h.row
		next.Sequence++
		if h.unsure {
			next.Content = 0 // the claim expires as if this replica had disappeared
		} else {
			next.Holder = ""
		}
		if failed {
			next.Failures++
		}
		held, err := h.replace(ctx, h.key, h.row, next)
		if err == nil && held {
			return
		}
		if sleep(ctx, pollFirst) != nil {
			return
		}
		row, err := h.look(ctx, h.key)
		if err == nil && (row.Holder != h.row.Holder || row == next) {
			return
		}
		if err == nil {
			h.row = row
		}
	}
}

// sent remembers a notification that was sent until it is recorded.
func (c *Claims) sent(key string, s *sent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(key)
	if k.sent, k.unwritten = s, true; s.number == 0 {
		s.number, s.before = k.row.Number, k.row.Entry
	}
}

// finish records the notification that was sent. If that fails for recordTime, Run continues to try.
func (c *Claims) finish(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	for poll := pollFirst; ; poll = min(2*poll, pollMost) {
		err := c.record(ctx, key)
		if err == nil {
			return nil
		}
		if sleep(ctx, poll) != nil {
			c.opts.Logger.Warn("a notification that was sent could not be recorded yet; retrying", "err", err)
			return nil
		}
	}
}

// record writes the last notification of this replica to its row, unless the row contains it or a later one.
func (c *Claims) record(ctx context.Context, key string) error {
	for {
		s := c.pending(key)
		if s == nil {
			return nil
		}
		row, err := c.look(ctx, key)
		if err != nil {
			return err
		}
		if row.Entry == s.entry || row.Number > s.number && row.Entry != s.before { // or another replica has recorded a later one
			c.recorded(key, s)
			continue
		}
		next := row
		next.Entry, next.Flushed, next.Expires = s.entry, s.flushed, s.expires
		next.Sequence++
		if next.Holder == s.holder {
			next.Holder = ""
		}
		if held, err := c.replace(ctx, key, row, next); err != nil {
			return err
		} else if held {
			c.recorded(key, s)
		}
	}
}

func (c *Claims) pending(key string) *sent {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[key]; k != nil && k.unwritten {
		return k.sent
	}
	return nil
}

func (c *Claims) recorded(key string, s *sent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.known[key]; k != nil && k.sent == s {
		k.unwritten = false
	}
}

// unread handles a row that could not be read. If the row store is unavailable for some time, it sends the notification
// without a claim.
func (c *Claims) unread(ctx context.Context, a *Attempt, w *wait, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if c.opts.Running()-w.reached < unreachable {
		return errAgain
	}
	if !w.position {
		w.position = true
		if err := sleep(ctx, time.Duration(a.Position)*positionDelay); err != nil {
			return err
		}
		return errAgain // the row store may be available now, or a replica before this one may have sent the notification
	}
	entry, flushed := c.memory(a.Key)
	if due, err := c.due(a, entry, flushed); !due || err != nil {
		return err
	}
	c.opts.Metrics.unclaimed.Inc()
	c.opts.Logger.Warn("sending a notification without a claim, because the row store does not answer; other replicas may send it, too",
		"err", err)
	entry, expires, err := a.Send(ctx)
	if err != nil {
		return err
	}
	c.sent(a.Key, &sent{entry: entry, flushed: a.Flushed.UnixMilli(), expires: expires.UnixMilli()})
	c.opts.Tell(a.Key, entry, a.Flushed.UnixMilli())
	return nil
}

// Told remembers a notification that another replica has sent without a claim.
func (c *Claims) Told(key, entry string, flushed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(key)
	if k.told == nil || k.told.flushed < flushed {
		k.told = &sent{entry: entry, flushed: flushed}
	}
}

// memory returns the last entry of a notification in the memory of this replica.
func (c *Claims) memory(key string) (entry string, flushed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[key]
	if k == nil {
		return "", 0
	}
	entry, flushed = k.row.Entry, k.row.Flushed
	if k.unwritten {
		entry, flushed = k.sent.entry, k.sent.flushed
	}
	if k.told != nil && k.told.flushed > flushed {
		return k.told.entry, k.told.flushed
	}
	return entry, flushed
}

// Run records notifications that could not be recorded at once, and removes notifications from memory that are no longer
// needed, until the context ends.
func (c *Claims) Run(ctx context.Context) {
	for sleep(ctx, pollMost) == nil {
		for _, key := range c.tidy() {
			_ = c.record(ctx, key) // retried
		}
	}
}

// Flush waits for notifications in progress, and records those that are not recorded yet. It is called at the end of the
// process, when all calls of Notify have been canceled.
func (c *Claims) Flush(ctx context.Context) error {
	for c.count(0) > 0 {
		if err := sleep(ctx, pollFirst); err != nil {
			return fmt.Errorf("wait for notifications that are on their way: %w", err)
		}
	}
	var errs error
	for _, key := range c.tidy() {
		errs = errors.Join(errs, c.record(ctx, key))
	}
	return errs
}

// tidy removes notifications that were not used for some time from memory, and returns the keys of those that are not
// recorded yet.
func (c *Claims) tidy() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	kept := time.Hour
	if len(c.known) > maxKnown {
		// A removed notification is read again when it is needed. It is missing only while the row store is unavailable.
		kept = 2 * learnTime
	}
	for key, k := range c.known {
		switch {
		case k.unwritten:
			out = append(out, key)
		case c.opts.Running()-k.used > kept:
			delete(c.known, key)
		}
	}
	c.opts.Metrics.unwritten.Set(float64(len(out)))
	return out
}
