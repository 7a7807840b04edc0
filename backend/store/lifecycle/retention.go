package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// Expiry are the parameters of Expire.
type Expiry struct {
	Now time.Time
	// Spent is the number of the tenant's days that expired because time passed,
	// rather than because the retention was lowered, in the last 24 hours that the
	// process ran. The number of such days in 24 hours is limited, unless All is set.
	Spent int
	All   bool
}

// Expired is the result of Expire.
type Expired struct {
	Days      int  // days expired
	ByTime    int  // how many of them because time passed, not because the retention was lowered
	Waiting   int  // due days that did not expire because of the limit for 24 hours
	Deletions bool // whether the tenant may have deletions of series
}

// Expire removes the days of a tenant that are wholly beyond its retention from the
// index, and enters their packs and rows into the garbage queue. Days that are due
// because the retention was lowered expire at once. Of the days that are due because
// time passed, only a few expire in 24 hours, since the clock may be wrong.
func (k *Keeper) Expire(ctx context.Context, t tenant.ID, e Expiry) (Expired, error) {
	out := Expired{Deletions: true}
	keep, err := k.opts.Retention(ctx, t)
	if err != nil {
		return out, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	before := ExpiredBefore(e.Now, keep)
	if before <= 0 {
		return out, nil
	}
	list, deletions, err := k.index.Catalogs.All(ctx, t, 0, before-1)
	if err != nil {
		return out, err
	}
	out.Deletions = len(deletions) > 0
	may, err := k.mayExpire(ctx, t, list, e)
	if err != nil {
		return out, err
	}
	for i := range list {
		c := &list[i]
		lowered := !c.Empty() && may.lowered(c)
		switch {
		case c.Empty():
			err = k.forgetFence(ctx, c)
		case !lowered && out.ByTime >= may.byTime:
			out.Waiting++
		default:
			if err = k.expireDay(ctx, c); err == nil {
				out.Days++
			}
			if err == nil && !lowered {
				out.ByTime++
			}
		}
		if err != nil {
			return out, fmt.Errorf("expire day %d of tenant %s: %w", c.Day, t, err)
		}
	}
	return out, nil
}

// ExpiredBefore returns the first day that is kept under a retention. One day more is
// kept than the retention demands, so that a read that clipped its range a moment ago
// finds all of its samples.
func ExpiredBefore(now time.Time, keep time.Duration) int64 {
	if keep == 0 {
		return 0
	}
	return series.Day(now.Add(-keep).UnixMilli()) - 1
}

// allowance determines which of a tenant's due days may expire.
type allowance struct {
	byTime  int                       // number of days that may expire because time passed
	lowered func(*index.Catalog) bool // whether a day is due because the retention was lowered
}

// mayExpire returns which due days may expire. A day counts as due because of a lowered
// retention if it would not be due under the retention for which the tenant's cells
// were last stamped or, where that is unknown, under the expiry in the day's manifest.
func (k *Keeper) mayExpire(ctx context.Context, t tenant.ID, due []index.Catalog, e Expiry) (allowance, error) {
	all := allowance{byTime: len(due), lowered: func(*index.Catalog) bool { return false }}
	if e.All || !slices.ContainsFunc(due, func(c index.Catalog) bool { return !c.Empty() }) {
		return all, nil
	}
	kept, known, err := k.index.Tenants.Kept(ctx, t)
	if err != nil {
		return all, err
	}
	days, _, err := k.index.Catalogs.Held(ctx, t, 0, schema.MaxDay)
	if err != nil {
		return all, err
	}
	all.byTime = max(clock.Days(len(days)+e.Spent)-e.Spent, 0)
	all.lowered = func(c *index.Catalog) bool {
		if known {
			return c.Day >= ExpiredBefore(e.Now, kept)
		}
		return c.Manifest != nil && (c.Manifest.Expiry == 0 || c.Manifest.Expiry > e.Now.UnixMilli())
	}
	return all, nil
}

// expireDay deletes the catalog cells of a day, which hides the day from reads. The
// sweep deletes its packs and rows later.
func (k *Keeper) expireDay(ctx context.Context, c *index.Catalog) error {
	if err := k.index.Catalogs.DropL0(ctx, c); err != nil || c.Manifest == nil {
		return err
	}
	if err := k.store.EnterReplaced(ctx, c); err != nil {
		return err
	}
	return k.index.Catalogs.Hide(ctx, c)
}

// Restamp writes the cells of a tenant's published days with later timestamps if the retention
// has become longer than the one they were written for. It returns the number of days
// restamped.
func (k *Keeper) Restamp(ctx context.Context, t tenant.ID) (int, error) {
	keep, err := k.opts.Retention(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	kept, known, err := k.index.Tenants.Kept(ctx, t)
	if err != nil {
		return 0, err
	}
	if known && kept == keep {
		return 0, nil
	}
	days := 0
	if !known || longer(keep, kept) {
		if days, err = k.restampDays(ctx, t, keep); err != nil {
			return days, err
		}
	}
	return days, k.index.Tenants.SetKept(ctx, t, keep)
}

// longer reports whether retention a is longer than b; 0 means forever.
func longer(a, b time.Duration) bool { return b != 0 && (a == 0 || a > b) }

func (k *Keeper) restampDays(ctx context.Context, t tenant.ID, keep time.Duration) (int, error) {
	list, _, err := k.index.Catalogs.Readable(ctx, t, 0, schema.MaxDay)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range list {
		c := &list[i]
		stamp, expiry := store.StampFor(c.Day, keep)
		if c.Manifest == nil || c.Manifest.Expiry == expiry || !longer(time.Duration(expiry), time.Duration(c.Manifest.Expiry)) {
			continue
		}
		if err := k.restampDay(ctx, c, stamp, expiry); err != nil {
			return n, fmt.Errorf("extend the expiry of day %d of tenant %s: %w", c.Day, t, err)
		}
		n++
	}
	return n, nil
}

// restampDay writes a day's cells again with a later timestamp: the rows of the index
// first, then the manifest, so that a day left incomplete by a crash is restamped
// again.
func (k *Keeper) restampDay(ctx context.Context, c *index.Catalog, stamp, expiry int64) error {
	if err := k.index.Generations.Restamp(ctx, c, stamp); err != nil {
		return err
	}
	m := *c.Manifest
	m.Expiry = expiry
	number, err := c.Fence()
	if err != nil {
		return err
	}
	held, err := k.index.Catalogs.Replace(ctx, c, &m, number, stamp)
	if err == nil && !held {
		err = store.ErrConflict
	}
	return err
}
