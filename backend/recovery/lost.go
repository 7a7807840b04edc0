package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/store"
)

const (
	// lossesFor is how long losses read from the store are used.
	lossesFor = 5 * time.Second
	// lossesKnown is the time after which every querier has read a recorded loss.
	lossesKnown = lossesFor + time.Second

	restoreEvery = 10 * time.Second
	flushTimeout = 10 * time.Minute
)

// LostDomains returns the failure domains in which an ingester was lost with pending
// windows that overlap the range (Unix milliseconds, inclusive) and that replicas have
// not uploaded yet. Only losses that concern the tenant are considered.
func (r *Recovery) LostDomains(ctx context.Context, id tenant.ID, mint, maxt int64) ([]string, error) {
	list, err := r.recentLosses(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list {
		l := &list[i]
		in := ring.Instance{ID: store.InstanceOf(l.Ingester), Zone: l.Zone}
		if l.Overlaps(mint, maxt) && (l.Tenant == "" || l.Tenant == id) && !slices.Contains(out, in.Domain()) {
			out = append(out, in.Domain())
		}
	}
	return out, nil
}

// recentLosses returns the losses as they were at most lossesFor ago. One caller reads
// them from the store; the others wait for it, each at most until its own context is done.
// A read that takes longer than lossesFor fails: an ingester that was marked as lost
// meanwhile may already be replaced by one without its samples.
func (r *Recovery) recentLosses(ctx context.Context) ([]store.Lost, error) {
	if list, ok := r.cachedLosses(); ok {
		return list, nil
	}
	select {
	case r.reading <- struct{}{}:
		defer func() { <-r.reading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait until the list of lost ingesters is read: %w", ctx.Err())
	}
	if list, ok := r.cachedLosses(); ok { // another caller has read them
		return list, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lossesFor)
	defer cancel()
	now := time.Now()
	list, err := r.o.Store.Losses(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the losses of ingesters: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses, r.readAt = list, now
	return list, nil
}

// cachedLosses returns the losses that were read last, unless they are too old. Their age
// is in real time, not by the injected clock.
func (r *Recovery) cachedLosses() ([]store.Lost, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.losses, !r.readAt.IsZero() && time.Since(r.readAt) <= lossesFor
}

// MarkPredecessor marks as lost the pending windows of an earlier ingester of the same name
// that was lost with its disk, and returns once every querier has read the loss. This
// ingester must not serve before that. The result `fresh` reports whether this ingester has
// an empty disk; if not, nothing is marked.
func (r *Recovery) MarkPredecessor(ctx context.Context) (fresh bool, err error) {
	fresh, replaced := r.o.Members.Fresh()
	if !fresh {
		return false, nil
	}
	self := r.o.Members.Self()
	var also []store.Window
	zone := self.Zone
	if replaced {
		also, zone = r.lastWindows(), r.o.Members.LostZone()
	}
	n, err := r.o.Store.MarkLost(ctx, self.ID, self.Incarnation, zone, also)
	if err != nil {
		return true, fmt.Errorf("mark the pending windows of lost ingester %s: %w", self.ID, err)
	}
	if n > 0 {
		r.o.Logger.Warn("this ingester replaces one of the same name that was lost with its disk: "+
			"until replicas have uploaded the lost windows, queries cannot tolerate a second zone being unavailable", "windows", n)
		if err := r.o.Wait(ctx, lossesKnown); err != nil {
			return true, err
		}
	}
	return true, r.o.Members.LossRecorded()
}

// MarkDamaged marks as lost the windows of this ingester whose samples are in damaged parts of
// its log, and returns once every querier has read the loss. Replicas have the samples, and
// Restore makes the replicas upload them. The argument `starts` has the starts of the windows
// in Unix milliseconds.
func (r *Recovery) MarkDamaged(ctx context.Context, starts []int64) error {
	var windows []store.Window
	for _, t := range starts {
		windows = append(windows, store.WindowOf(t))
	}
	self := r.o.Members.Self()
	if err := r.o.Store.MarkDamaged(ctx, self.ID, self.Incarnation, self.Zone, windows); err != nil {
		return err
	}
	r.o.Logger.Warn("this ingester's write-ahead log is damaged: until replicas have uploaded the damaged windows, "+
		"queries of them cannot tolerate a second zone being unavailable", "windows", len(windows))
	return r.o.Wait(ctx, lossesKnown)
}

// Restore makes all ingesters upload their data until the lost windows of an ingester
// are in the long-term store. It retries until they are, until an operator must accept
// the loss, or until ctx is done.
func (r *Recovery) Restore(ctx context.Context, ingester string) {
	for {
		left, err := r.restore(ctx, ingester)
		switch {
		case ctx.Err() != nil || err == nil && left == 0:
			return
		case err == nil:
			r.o.Logger.Error("ingesters of several failure domains were lost with the same pending windows: acknowledged samples may be lost; "+
				"queries of these windows fail until an operator accepts the loss: pallium loss accept DAY",
				"ingester", ingester, "windows", left)
			return
		}
		r.o.Logger.Warn("lost ingester's data not fully recovered yet: waiting for replicas to upload; retrying",
			"ingester", ingester, "err", err)
		if r.o.Wait(ctx, restoreEvery) != nil {
			return
		}
	}
}

// restore tries once. It returns the number of windows whose loss only an operator can
// accept.
func (r *Recovery) restore(ctx context.Context, ingester string) (left int, err error) {
	if left, err = r.o.Store.LossesOf(ctx, ingester); err != nil || left == 0 {
		return left, err
	}
	if err := r.flushAll(ctx); err != nil {
		return 0, err
	}
	if left, err = r.o.Store.ClearLoss(ctx, ingester); err == nil && left == 0 {
		r.o.Logger.Info("lost ingester's data fully recovered: uploaded by its replicas", "ingester", ingester)
	}
	return left, err
}

// flushAll makes every ingester seal and upload its data.
func (r *Recovery) flushAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	list, err := r.ingesters(ctx, func(*ring.Instance) bool { return true })
	if err == nil && len(list) == 0 {
		err = errors.New("no ingesters in the ring")
	}
	if err != nil {
		return err
	}
	_, err = peers.All(ctx, list, func(ctx context.Context, p Peer) (struct{}, error) { return struct{}{}, p.Flush(ctx) })
	return err
}
