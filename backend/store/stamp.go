package store

import (
	"context"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/series"
)

// forever stands for the expiry of what is kept for ever.
const forever = int64(253402300799000) // the end of the year 9999

// Stamp returns the timestamp for the cells of a tenant's day, and the day's
// expiry (both Unix milliseconds; an expiry of 0 is never). Readers do not go by the timestamp;
// it only lets the store collect cells long after their time.
func (s *Store) Stamp(ctx context.Context, t tenant.ID, day int64) (stamp, expiry int64, err error) {
	keep, err := s.opts.Retention(ctx, t)
	if err != nil {
		return 0, 0, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	stamp, expiry = StampFor(day, keep)
	return stamp, expiry, nil
}

// StampFor is Stamp for a retention; 0 is for ever.
func StampFor(day int64, keep time.Duration) (stamp, expiry int64) {
	if keep == 0 {
		return forever, 0
	}
	expiry = (day+1)*series.DayMillis + keep.Milliseconds()
	return min(max(expiry+expiryDelay.Milliseconds()-index.CellLife.Milliseconds(), 0), forever), expiry
}
