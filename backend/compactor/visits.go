package compactor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// A sweep makes calls of the row store only for tenants of which something can be
// due. What was found out about the others is remembered here, in memory: at a start
// every tenant is looked at, and then once a UTC day, when its retention changes, and
// when days that had to wait may go. Tenants that were deleted are looked at with a
// distance that grows as long as nothing is found.

const (
	firstErasure = sweepEvery         // from the first look at a deleted tenant to the second
	lastErasure  = 7 * 24 * time.Hour // the largest distance of two looks
)

// visits is what sweeps know of tenants.
type visits struct {
	mu      sync.Mutex
	active  map[tenant.ID]*visit
	deleted map[tenant.ID]*erasure
}

// visit is the last look at a tenant.
type visit struct {
	done    bool // it was looked at without an error
	keep    time.Duration
	before  int64 // the first day that was not beyond retention
	today   int64
	budget  clock.Budget // of days that went by their time alone
	waiting int          // days that had to wait
}

// settled reports whether the last look at the tenant was of the same retention and
// days.
func (v *visit) settled(keep time.Duration, before, today int64) bool {
	return v.done && v.keep == keep && v.before == before && v.today == today
}

// erasure is the last look at a deleted tenant.
type erasure struct {
	next, distance time.Duration // of running
}

func newVisits() *visits {
	return &visits{active: map[tenant.ID]*visit{}, deleted: map[tenant.ID]*erasure{}}
}

// of returns what is known of a tenant.
func (v *visits) of(t tenant.ID) *visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.active[t] == nil {
		v.active[t] = &visit{}
	}
	return v.active[t]
}

// forget drops what is known of tenants that are neither.
func (v *visits) forget(active, deleted []tenant.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	prune(v.active, active)
	prune(v.deleted, deleted)
}

func prune[T any](known map[tenant.ID]T, list []tenant.ID) {
	there := make(map[tenant.ID]struct{}, len(list))
	for _, t := range list {
		there[t] = struct{}{}
	}
	for t := range known {
		if _, ok := there[t]; !ok {
			delete(known, t)
		}
	}
}

// waiting is how many days wait, of all tenants.
func (v *visits) waiting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	sum := 0
	for _, one := range v.active {
		sum += one.waiting
	}
	return sum
}

func (v *visits) setWaiting(one *visit, days int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	one.waiting = days
}

// visit expires a tenant's days, makes cells last for a longer retention, and forgets
// deletions of series, if any of that can be due. all takes every day that is beyond
// retention.
func (c *Compactor) visit(ctx context.Context, t tenant.ID, now time.Time, all bool) error {
	keep, err := c.opts.Retention(ctx, t)
	if err != nil {
		return fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	v, running := c.visits.of(t), c.opts.Clock.Running()
	spent := v.budget.Spent(running)
	before, today := lifecycle.ExpiredBefore(now, keep), series.Day(now.UnixMilli())
	if v.settled(keep, before, today) && (v.waiting == 0 || spent > 0 && !all) {
		return nil
	}
	v.done = false
	out, err := c.opts.Lifecycle.Expire(ctx, t, lifecycle.Expiry{Now: now, Spent: spent, All: all})
	c.metrics.expired.Add(float64(out.Days))
	if !all {
		v.budget.Spend(running, out.ByTime)
	}
	if err != nil {
		return err // and the cell with the retention of before stays
	}
	if out.Waiting > 0 && (out.Days > 0 || v.waiting == 0) {
		c.opts.Logger.Warn("days beyond retention wait: only two, or a tenth of a tenant's days, go in 24 hours unless its "+
			"retention was lowered; if the clock is right, POST /admin/v1/compact?expire=all takes them now",
			"tenant", t, "waiting", out.Waiting, "expired", out.Days)
	}
	c.visits.setWaiting(v, out.Waiting)
	stamped, err := c.opts.Lifecycle.Restamp(ctx, t)
	if stamped > 0 {
		c.opts.Logger.Info("cells made to last for a longer retention", "tenant", t, "days", stamped)
	}
	if err == nil && out.Deletions {
		err = c.opts.Lifecycle.ForgetDeletions(ctx, t, now.Add(-c.opts.KeepDeletions(t)).UnixMilli())
	}
	v.done, v.keep, v.before, v.today = err == nil, keep, before, today
	return err
}

// erase erases what a deleted tenant left, if it is time to look for it again.
func (c *Compactor) erase(ctx context.Context, t tenant.ID) error {
	running := c.opts.Clock.Running()
	e := c.visits.deleted[t]
	if e == nil {
		e = &erasure{}
		c.visits.deleted[t] = e
	}
	if running < e.next {
		return nil
	}
	erased, err := c.opts.Lifecycle.Erase(ctx, t)
	found := erased.Objects > 0 || erased.Rows
	if found {
		c.opts.Logger.Info("erased a deleted tenant", "tenant", t, "objects", erased.Objects, "bytes", erased.Bytes)
	}
	if err != nil || found {
		e.next, e.distance = 0, 0
		return err
	}
	e.distance = min(max(2*e.distance, firstErasure), lastErasure)
	e.next = running + e.distance
	return nil
}
