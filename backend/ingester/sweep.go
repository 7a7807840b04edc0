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

// expiry decides which local packs, and files of series that were set aside, go
// because they are beyond retention. Of those that only the time made due few days
// go in 24 hours, since the clock may be wrong. It is used under sweepMu.
type expiry struct {
	budget clock.Budget
	kept   map[tenant.ID]time.Duration // retention at the last sweep
}

// Sweep deletes what is beyond its tenant's retention: local packs of which all
// samples are, and files of series that were set aside. It prunes the deletions of
// series that nothing needs any more. While the clock cannot be trusted nothing goes
// by its time.
func (ing *Ingester) Sweep() error {
	ing.sweepMu.Lock()
	defer ing.sweepMu.Unlock()
	never := func(tenant.ID, int64) bool { return false }
	now, err := ing.opts.Clock.Now()
	if err != nil { // it is logged
		return errors.Join(ing.sweepAside(never), ing.pruneDeletions())
	}
	running := ing.opts.Clock.Running()
	expired, days := ing.expired(now, running)
	n, err := ing.packs.remove(expired)
	ing.metrics.packsExpired.Add(float64(n))
	err = errors.Join(err, ing.sweepAside(expired))
	ing.expiry.budget.Spend(running, days)
	return errors.Join(err, ing.pruneDeletions())
}

// held is what a local file has of each tenant: the time of its newest sample.
type held map[tenant.ID]int64

// expired returns what may go now, and how many days of it only the time made due.
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
		ing.opts.Logger.Warn("local packs beyond retention wait: those of only two days, or of a tenth of all, go in 24 hours",
			"days", len(due)-days)
	}
	last := lastDay(due, days)
	return func(id tenant.ID, maxt int64) bool {
		return beyond(id, maxt, keep) && (series.Day(maxt) <= last || lowered(id, maxt))
	}, days
}

// beyondRetention reports whether a sample at maxt is older than a retention, of which
// 0 is for ever.
func beyondRetention(retention time.Duration, maxt int64, now time.Time) bool {
	return retention > 0 && maxt < now.UnixMilli()-retention.Milliseconds()
}

// lastDay returns the newest day that may go when the n oldest of those that are due do.
func lastDay(due map[int64]struct{}, n int) int64 {
	if n == 0 {
		return math.MinInt64
	}
	return slices.Sorted(maps.Keys(due))[n-1]
}

// heldFiles lists what the local packs and the files of series that were set aside
// hold.
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
