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

// A sweep calls the row store only for tenants for which something may be due. The state
// for that is in memory: a sweep visits every tenant after the process has started, once a
// UTC day, when its retention changes, and when waiting days may expire. It erases deleted
// tenants repeatedly, at intervals that double while nothing is found.

const (
	firstErasure = sweepEvery         // interval from the first erasure of a deleted tenant to the second
	lastErasure  = 7 * 24 * time.Hour // the longest interval
)

// visits is the state of sweeps for all tenants.
type visits struct {
	mu      sync.Mutex
	active  map[tenant.ID]*visit
	deleted map[tenant.ID]*erasure
}

// visit is the last visit of a tenant.
type visit struct {
	done    bool          // it succeeded
	keep    time.Duration // the tenant's retention then
	before  int64         // the first day that was not beyond retention
	today   int64         // the UTC day of the visit
	budget  clock.Budget  // days expired because time passed, not because the retention was lowered
	waiting int           // due days that were not expired
}

// current reports whether the last visit of the tenant succeeded with the same retention
// and days.
func (v *visit) current(keep time.Duration, before, today int64) bool {
	return v.done && v.keep == keep && v.before == before && v.today == today
}

// erasure is the schedule of erasures of a deleted tenant.
type erasure struct {
	next     time.Duration // running time of the process at which the next erasure is due
	interval time.Duration
}

func newVisits() *visits {
	return &visits{active: map[tenant.ID]*visit{}, deleted: map[tenant.ID]*erasure{}}
}

// of returns the state of a tenant.
func (v *visits) of(t tenant.ID) *visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.active[t] == nil {
		v.active[t] = &visit{}
	}
	return v.active[t]
}

// forget deletes the visits of tenants that are not active, and the erasures of
// tenants that are not deleted.
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

// waiting returns the number of due days that are not expired yet, of all tenants.
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

// visit expires a tenant's days, restamps cells after the retention was raised, forgets
// deletions of series, and deletes expired silences and notifications. It skips what is not
// due. If `all` is set, it expires all days beyond the retention, without the limit for 24
// hours.
func (c *Compactor) visit(ctx context.Context, t tenant.ID, now time.Time, all bool) error {
	keep, err := c.opts.Retention(ctx, t)
	if err != nil {
		return fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	v, running := c.visits.of(t), c.opts.Clock.Running()
	spent := v.budget.Spent(running)
	before, today := lifecycle.ExpiredBefore(now, keep), series.Day(now.UnixMilli())
	if v.current(keep, before, today) && (v.waiting == 0 || spent > 0 && !all) {
		return nil
	}
	v.done = false
	out, err := c.opts.Lifecycle.Expire(ctx, t, lifecycle.Expiry{Now: now, Spent: spent, All: all})
	c.metrics.expired.Add(float64(out.Days))
	if !all {
		v.budget.Spend(running, out.ByTime)
	}
	if err != nil {
		return err // and keep the recorded retention
	}
	if out.Waiting > 0 && (out.Days > 0 || v.waiting == 0) {
		c.opts.Logger.Warn("days beyond retention not deleted yet: at most two days or a tenth of a tenant's days, whichever is more, "+
			"are deleted for age in 24 hours (no limit after the retention is lowered); if the clock is right, run: pallium compact -expire-all",
			"tenant", t, "waiting", out.Waiting, "expired", out.Days)
	}
	c.visits.setWaiting(v, out.Waiting)
	stamped, err := c.opts.Lifecycle.Restamp(ctx, t)
	if stamped > 0 {
		c.opts.Logger.Info("extended the expiry of index cells for a longer retention", "tenant", t, "days", stamped)
	}
	if err == nil && out.Deletions {
		err = c.opts.Lifecycle.ForgetDeletions(ctx, t, now.Add(-c.opts.KeepDeletions(t)).UnixMilli())
	}
	if err == nil {
		err = c.opts.Lifecycle.CleanAlertmanager(ctx, t, now)
	}
	v.done, v.keep, v.before, v.today = err == nil, keep, before, today
	return err
}

// erase erases the remaining data of a deleted tenant, if an erasure is due.
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
		c.opts.Logger.Info("erased data of a deleted tenant", "tenant", t, "objects", erased.Objects, "bytes", erased.Bytes)
	}
	if err != nil || found {
		e.next, e.interval = 0, 0
		return err
	}
	e.interval = min(max(2*e.interval, firstErasure), lastErasure)
	e.next = running + e.interval
	return nil
}
