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
	// lossesFor is how long an answer of the store about losses is used.
	lossesFor = 5 * time.Second
	// lossesKnown is after how long every querier knows a loss that was marked.
	lossesKnown = lossesFor + time.Second

	restoreEvery = 10 * time.Second
	flushTimeout = 10 * time.Minute
)

// LostDomains lists the failure domains in which an ingester was lost with samples of
// the tenant and range (Unix milliseconds, both included) that are not known to be
// uploaded by others.
func (r *Recovery) LostDomains(ctx context.Context, id tenant.ID, mint, maxt int64) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The time of asking counts, and no injected clock.
	if now := time.Now(); r.asked.IsZero() || now.Sub(r.asked) > lossesFor {
		list, err := r.o.Store.Losses(ctx)
		if err != nil {
			return nil, err
		}
		r.losses, r.asked = list, now
	}
	var out []string
	for i := range r.losses {
		l := &r.losses[i]
		in := ring.Instance{ID: l.Ingester, Zone: l.Zone}
		if l.Overlaps(mint, maxt) && (l.Tenant == "" || l.Tenant == id) && !slices.Contains(out, in.Domain()) {
			out = append(out, in.Domain())
		}
	}
	return out, nil
}

// MarkForerunner marks the data of an ingester of this one's name as lost if it was
// lost with its disk, and returns when every querier knows. Nothing is served
// before. fresh reports whether this ingester has an empty disk.
func (r *Recovery) MarkForerunner(ctx context.Context) (fresh bool, err error) {
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
	n, err := r.o.Store.Lose(ctx, self.ID, self.Incarnation, zone, also)
	if err != nil {
		return true, fmt.Errorf("mark the pending uploads of a lost ingester %s: %w", self.ID, err)
	}
	if n > 0 {
		r.o.Logger.Warn("this ingester replaces one of the same name that was lost with its disk; "+
			"until replicas have uploaded its pending windows, queries cannot tolerate a second zone being unavailable", "windows", n)
		if err := r.o.Wait(ctx, lossesKnown); err != nil {
			return true, err
		}
	}
	return true, r.o.Members.Settled()
}

// MarkDamaged marks windows of this ingester as lost of which its log is damaged: the
// other ingesters have the samples, and Restore has them upload these. starts are
// Unix milliseconds.
func (r *Recovery) MarkDamaged(ctx context.Context, starts []int64) error {
	var windows []store.Window
	for _, t := range starts {
		windows = append(windows, store.WindowOf(t))
	}
	self := r.o.Members.Self()
	if err := r.o.Store.Damaged(ctx, self.ID, self.Incarnation, self.Zone, windows); err != nil {
		return err
	}
	r.o.Logger.Warn("this ingester's write-ahead log is damaged: until replicas have uploaded the damaged windows, "+
		"queries of them cannot tolerate a second zone being unavailable", "windows", len(windows))
	return r.o.Wait(ctx, lossesKnown)
}

// Restore makes sure that a lost ingester's data is in the long-term store: all others
// upload what they have now, upon which any one of them may be lost again. It tries
// until that is so or ctx is done.
func (r *Recovery) Restore(ctx context.Context, ingester string) {
	for {
		left, err := r.restore(ctx, ingester)
		switch {
		case ctx.Err() != nil || err == nil && left == 0:
			return
		case err == nil:
			r.o.Logger.Error("ingesters of two zones were lost before what they had was uploaded: acknowledged samples may be lost; "+
				"queries of that time fail until an operator accepts it by POST /admin/v1/compact/accept-loss?day=DAY", "ingester", ingester,
				"windows", left)
			return
		}
		r.o.Logger.Warn("lost ingester's data not fully recovered yet: waiting for replicas to upload; retrying",
			"ingester", ingester, "err", err)
		if r.o.Wait(ctx, restoreEvery) != nil {
			return
		}
	}
}

// restore tries once. It returns how many windows only an operator can settle.
func (r *Recovery) restore(ctx context.Context, ingester string) (left int, err error) {
	if left, err = r.o.Store.LossesOf(ctx, ingester); err != nil || left == 0 {
		return left, err
	}
	if err := r.flushAll(ctx); err != nil {
		return 0, err
	}
	if left, err = r.o.Store.SettleLoss(ctx, ingester); err == nil && left == 0 {
		r.o.Logger.Info("a lost ingester's data is uploaded by its replicas", "ingester", ingester)
	}
	return left, err
}

// flushAll has every ingester seal and upload what it has.
func (r *Recovery) flushAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	list, err := r.ingesters(ctx, func(*ring.Instance) bool { return true })
	if err == nil && len(list) == 0 {
		err = errors.New("there are no ingesters in the ring")
	}
	if err != nil {
		return err
	}
	_, err = peers.All(ctx, list, func(ctx context.Context, p Peer) (struct{}, error) { return struct{}{}, p.Flush(ctx) })
	return err
}
