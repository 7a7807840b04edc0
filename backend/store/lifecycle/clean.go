package lifecycle

import (
	"context"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// uploadTime is the time after a deletion of series in which ingesters upload the packs that
// they sealed before it.
const uploadTime = time.Hour

// CleanDeletions requests that the compactor remove a tenant's deleted series from the
// packs of all days now, including days that have not ended. It omits days that need no
// removal, and days with a request that is newer than the deletions to be applied. It
// returns the number of days that it requested.
func (k *Keeper) CleanDeletions(ctx context.Context, t tenant.ID) (int, error) {
	_, deletions, err := k.index.Catalogs.Readable(ctx, t, 0, 0)
	if err != nil {
		return 0, err
	}
	first, last := activeDays(deletions)
	if first > last {
		return 0, nil
	}
	list, deletions, err := k.index.Catalogs.Readable(ctx, t, first, last)
	if err != nil {
		return 0, err
	}
	unapplied := map[int64]int64{} // day → creation of the last deletion that is not applied
	for i := range list {
		c := &list[i]
		if at := created(deletions, c.Day, func(d *index.Deletion) bool { return needed(list[i:i+1], d.Number) }); at > 0 {
			unapplied[c.Day] = at
		}
	}
	since := k.nowMillis()
	recent := since - uploadTime.Milliseconds()
	asked := map[int64]int64{} // day → time of the tenant's request
	err = k.index.Work.Each(ctx, func(w *index.DayWork) error {
		for _, c := range w.Cleans {
			if c.Tenant == t {
				asked[w.Day] = c.Since
			}
		}
		if len(w.Intents) > 0 { // ingesters may still upload packs with a lower number
			at := created(deletions, w.Day, func(d *index.Deletion) bool { return d.Created >= recent })
			unapplied[w.Day] = max(unapplied[w.Day], at)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	var days []int64
	for day, at := range unapplied {
		if before, ok := asked[day]; at > 0 && (!ok || before < at) {
			days = append(days, day)
		}
	}
	return len(days), k.index.Work.RequestCleans(ctx, t, days, since)
}

// activeDays returns the first and last UTC day of all active deletions; first is larger
// than last if there is none.
func activeDays(deletions index.Deletions) (first, last int64) {
	first, last = schema.MaxDay, -1
	for i := range deletions {
		d := &deletions[i]
		if from, to, ok := store.DayRange(d.MinTime, d.MaxTime); ok && d.State == schema.Active {
			first, last = min(first, from), max(last, to)
		}
	}
	return first, last
}

// created returns when the last of the selected active deletions of a day was created, or
// 0 if there is none.
func created(deletions index.Deletions, day int64, selected func(*index.Deletion) bool) int64 {
	at := int64(0)
	for i := range deletions {
		d := &deletions[i]
		from, to, ok := store.DayRange(d.MinTime, d.MaxTime)
		if ok && d.State == schema.Active && from <= day && day <= to && selected(d) {
			at = max(at, d.Created)
		}
	}
	return at
}
