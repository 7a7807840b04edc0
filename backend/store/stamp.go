package store

import (
	"context"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/series"
)

// forever is the timestamp of cells that never expire.
const forever = int64(253402300799000) // the end of the year 9999

// Stamp returns the timestamp for the cells of a tenant's day, and the day's expiry
// (both Unix milliseconds; an expiry of 0 means never). The timestamp only lets the
// row store collect cells long after their expiry.
func (s *Store) Stamp(ctx context.Context, t tenant.ID, day int64) (stamp, expiry int64, err error) {
	keep, err := s.opts.Retention(ctx, t)
	if err != nil {
		return 0, 0, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	stamp, expiry = StampFor(day, keep)
	return stamp, expiry, nil
}

// StampFor is Stamp for a given retention; 0 means forever.
func StampFor(day int64, keep time.Duration) (stamp, expiry int64) {
	if keep == 0 {
		return forever, 0
	}
	expiry = (day+1)*series.DayMillis + keep.Milliseconds()
	return min(max(expiry+expiryDelay.Milliseconds()-index.CellLife.Milliseconds(), 0), forever), expiry
}
