package ingester

import (
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/series"
)

// expiry limits how many local packs and files of series set aside are deleted
// because they are beyond retention. Of the days that are due only because time
// passed, at most two or a tenth of all days, whichever is more, are deleted within
// 24 hours, because the clock may be wrong. It is guarded by sweepMu.
type expiry struct {
	budget clock.Budget
	kept   map[tenant.ID]time.Duration // retention by tenant at the last sweep
}

// Sweep deletes local packs and files of series set aside that are completely
// beyond their tenants' retention, and files of series set aside of deleted tenants.
// It prunes deletions of series that are no longer needed. While the clock cannot be
// trusted, nothing is deleted by time.
func (ing *Ingester) Sweep() error {
	ing.sweepMu.Lock()
	defer ing.sweepMu.Unlock()
	never := func(tenant.ID, int64) bool { return false }
	now, err := ing.opts.Clock.Now()
	if err != nil { // logged by the clock guard
		return errors.Join(ing.sweepAside(never), ing.pruneDeletions())
	}
	running := ing.opts.Clock.Running()
	expired, days := ing.expired(now, running)
	n, of, err := ing.packs.remove(expired)
	for id := range of {
		ing.changes.changed(id)
	}
	ing.metrics.packsExpired.Add(float64(n))
	err = errors.Join(err, ing.sweepAside(expired))
	ing.expiry.budget.Spend(running, days)
	return errors.Join(err, ing.pruneDeletions())
}

// held maps the tenants of a local file to the time of their newest sample.
type held map[tenant.ID]int64

// expired returns a function that reports whether a tenant's samples up to a time
// may be deleted now. It also returns how many of the days to be deleted are due
// only because time passed, and not because a retention was lowered.
func (ing *Ingester) expired(now time.Time, running time.Duration) (func(tenant.ID, int64) bool, int) {
	files := ing.heldFiles()
	keep, kept := map[tenant.ID]time.Duration{}, ing.expiry.kept
	for _, f := range files {
		for id := range f {
			keep[id] = time.Duration(ing.opts.Limits(id).Retention)
		}
	}
	ing.expiry.kept = keep
	beyond := func(id tenant.ID, maxt int64, by map[tenant.ID]time.Duration) bool {
		return beyondRetention(by[id], maxt, now)
	}
	lowered := func(id tenant.ID, maxt int64) bool {
		_, known := kept[id]
		return known && beyond(id, maxt, keep) && !beyond(id, maxt, kept)
	}
	all, due := map[int64]struct{}{}, map[int64]struct{}{}
	for _, f := range files {
		newest, gone, explained := int64(0), true, false
		for id, maxt := range f {
			newest = max(newest, maxt)
			gone = gone && beyond(id, maxt, keep)
			explained = explained || lowered(id, maxt)
		}
		all[series.Day(newest)] = struct{}{}
		if gone && !explained {
			due[series.Day(newest)] = struct{}{}
		}
	}
	spent := ing.expiry.budget.Spent(running)
	days := min(max(clock.Days(len(all)+spent)-spent, 0), len(due))
	if days < len(due) {
		ing.opts.Logger.Warn("not deleting all local packs beyond retention: at most two days or a tenth of all days, whichever is more, "+
			"are deleted in 24 hours, in case the clock is wrong; the rest follows automatically", "days_remaining", len(due)-days)
	}
	last := lastDay(due, days)
	return func(id tenant.ID, maxt int64) bool {
		return beyond(id, maxt, keep) && (series.Day(maxt) <= last || lowered(id, maxt))
	}, days
}

// beyondRetention reports whether a sample at maxt is older than the retention; a
// retention of 0 is unlimited.
func beyondRetention(retention time.Duration, maxt int64, now time.Time) bool {
	return retention > 0 && maxt < now.UnixMilli()-retention.Milliseconds()
}

// lastDay returns the newest day that may be deleted if the n oldest due days may be
// deleted.
func lastDay(due map[int64]struct{}, n int) int64 {
	if n == 0 {
		return math.MinInt64
	}
	return slices.Sorted(maps.Keys(due))[n-1]
}

// heldFiles lists the tenants and newest samples of the local packs and the files
// of series set aside.
func (ing *Ingester) heldFiles() []held {
	var out []held
	ing.packs.mu.RLock()
	for _, lp := range ing.packs.packs {
		f := held{}
		for id, b := range boundsByTenant(lp.reader.Info()) {
			f[id] = b.max
		}
		out = append(out, f)
	}
	ing.packs.mu.RUnlock()
	for _, f := range ing.aside.all() {
		out = append(out, held{f.tenant: f.max})
	}
	return out
}
