package shares

import (
	"context"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/backend/schema"
)

// action is the action of a poll for a share.
type action int

const (
	nothing action = iota
	take
	renew
	release
)

// decide returns the action for a share. If the ruler begins to leave the share, it calls
// Events.Lost.
func (h *Holder) decide(i int, e Events) action {
	h.mu.Lock()
	now := h.opts.Running()
	s := &h.shares[i]
	owner := h.owner(i)
	a := h.choose(s, owner == h.instance, now)
	leave := s.held && !s.leaving && owner != h.instance && owner != ""
	if leave {
		s.leaving, s.ended = true, false
	}
	number := s.row.Number
	h.mu.Unlock()
	if leave {
		h.opts.Logger.Info("leaving a share of the rule groups to its owner", "share", i, "owner", owner)
		e.Lost(i, func() { h.end(i, number) })
	}
	return a
}

// end records that the evaluations of a share that is being left have ended.
func (h *Holder) end(i int, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := &h.shares[i]; s.leaving && s.row.Number == number {
		s.ended = true
	}
}

// choose returns the action for a share, unless the ruler decides to leave it. h.mu is locked.
func (h *Holder) choose(s *share, own bool, now time.Duration) action {
	switch {
	case s.corrupt || !s.known:
		return nothing
	case s.held && s.ended:
		return release
	case s.held:
		return renew
	case s.row.Holder == h.opts.ID && own && !h.retired:
		return renew // only the row says that this ruler holds it: an outcome was unknown, or the lease had ended
	case s.row.Holder == h.opts.ID:
		return release
	case own && !h.retired && (s.row.Holder == "" || h.opts.Exclusive || now-s.seen >= takeAfter):
		return take
	}
	return nothing
}

// owner returns the instance that should hold a share: the one with the highest weight among this
// ruler and the rulers in the ring that are not suspected to have stopped. It returns "" if there are no rulers.
// h.mu is locked.
func (h *Holder) owner(i int) string {
	best, most := "", uint64(0)
	for _, r := range h.rulers {
		if _, suspected := h.suspects[r]; suspected && r != h.instance {
			continue
		}
		if w := weight(i, r); best == "" || w > most || w == most && r < best {
			best, most = r, w
		}
	}
	return best
}

// weight is the rank of a ruler for a share.
func weight(share int, ruler string) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(uint64(share))
	_, _ = d.WriteString(ruler)
	return d.Sum64()
}

// suspect updates the set of rulers that appear to have stopped although they are in the ring:
// rulers that do not renew a share that they hold, or do not take a share that they own. A ruler
// is removed from the set when it takes or renews a share. h.mu is locked.
func (h *Holder) suspect(now time.Duration) {
	for r, until := range h.suspects {
		if now >= until {
			delete(h.suspects, r)
		}
	}
	for i := range h.shares {
		s := &h.shares[i]
		if !s.known || s.corrupt || s.held {
			continue
		}
		suspected := ""
		switch {
		case s.row.Holder != "" && now-s.seen >= takeAfter:
			suspected = instanceOf(s.row.Holder)
		case s.row.Holder == "" && now-s.seen >= claimWithin:
			suspected = h.owner(i)
		}
		if suspected != "" && suspected != h.instance {
			h.suspects[suspected] = now + suspicion
		}
	}
}

// act takes, renews or releases a share.
func (h *Holder) act(ctx context.Context, i int, a action, e Events) {
	h.mu.Lock()
	if a == release {
		h.shares[i].held = false // set before the write, because another ruler may take the share as soon as the write is executed
	}
	old, held, since := h.shares[i].row, h.shares[i].held, h.shares[i].seen
	h.mu.Unlock()
	start := h.opts.Running()
	idle := h.idle(old)
	next, ok := h.write(ctx, i, a, old)
	if a == release {
		if ok {
			h.left(i, next)
		}
		return
	}
	if !ok {
		if row := h.known(i); held && row.Holder != h.opts.ID {
			h.lose(i, e, "another ruler took it")
		}
		return
	}
	h.mu.Lock()
	s := &h.shares[i]
	s.row, s.seen, s.until = next, h.opts.Running(), start+leaseLife
	gained := !s.held && s.seen < s.until // false if the lease ended while the process was paused
	if gained {
		s.held, s.leaving, s.ended = true, false, false
	}
	h.mu.Unlock()
	if gained {
		h.metrics.changes.WithLabelValues("gained").Inc()
		h.opts.Logger.Info("gained a share of the rule groups", "share", i, "number", next.Number, "unchanged", start-since)
		e.Gained(i, next.Number, idle)
	}
}

// known returns the row of a share as it was last read or written.
func (h *Holder) known(i int) schema.Share {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shares[i].row
}

// left records that a share was released.
func (h *Holder) left(i int, next schema.Share) {
	h.mu.Lock()
	s := &h.shares[i]
	s.row, s.seen = next, h.opts.Running()
	s.held, s.leaving, s.ended = false, false, false
	h.mu.Unlock()
	h.metrics.changes.WithLabelValues("released").Inc()
	h.opts.Logger.Info("released a share of the rule groups", "share", i)
}

// idle returns the time for which a share has had no holder, according to the wall clocks of the
// last holder and of this process.
func (h *Holder) idle(old schema.Share) time.Duration {
	if old.Number == 0 {
		return Forever
	}
	return max(0, time.Duration(h.opts.Now().UnixMilli()-old.Until)*time.Millisecond)
}

// write changes the row of a share if it is still equal to `old`, and reports whether it was
// changed. If the outcome is unknown, it reads the row to find out.
func (h *Holder) write(ctx context.Context, i int, a action, old schema.Share) (schema.Share, bool) {
	next, ok, err := h.call(ctx, i, a, old)
	if err == nil && ok {
		return next, true
	}
	if err != nil && ctx.Err() == nil {
		h.metrics.failures.Inc()
		h.opts.Logger.Warn("a write of a share of the rule groups failed, or its outcome is unknown: reading the row again",
			"share", i, "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	row, err := h.opts.Store.Read(ctx, i)
	if err != nil {
		return next, false // the next poll reads it again
	}
	now := h.opts.Running()
	if row == next && next.Sequence > old.Sequence {
		return next, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(i, row, now)
	return next, false
}

func (h *Holder) call(ctx context.Context, i int, a action, old schema.Share) (next schema.Share, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now := h.opts.Now()
	until := now.Add(leaseLife).UnixMilli()
	switch a {
	case take:
		return h.opts.Store.Take(ctx, i, old, h.opts.ID, until)
	case renew:
		return h.opts.Store.Renew(ctx, i, old, until)
	default:
		return h.opts.Store.Release(ctx, i, old, now.UnixMilli())
	}
}

// Release releases all shares, so that other rulers take them at once. It must be called after Run
// has returned and the evaluations have ended. It retries until the context ends. Other rulers take
// the remaining shares when their leases have ended.
func (h *Holder) Release(ctx context.Context) {
	for {
		left := false
		for i := range h.shares {
			h.mu.Lock()
			s := &h.shares[i]
			ours := s.known && s.row.Holder == h.opts.ID
			s.held = false // whatever the outcome is, no more samples may be written
			old := s.row
			h.mu.Unlock()
			if !ours {
				continue
			}
			if next, ok := h.write(ctx, i, release, old); ok {
				h.left(i, next)
			} else if h.known(i).Holder == h.opts.ID {
				left = true
			}
		}
		if !left {
			return
		}
		select {
		case <-ctx.Done():
			h.opts.Logger.Warn("not all shares of the rule groups were released: other rulers take them after the leases have ended")
			return
		case <-time.After(pollInterval / 10):
		}
	}
}
