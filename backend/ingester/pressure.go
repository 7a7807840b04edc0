package ingester

import (
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// The rules below keep one tenant from filling the head for all. "Used" is the
// counted memory of the head in relation to the budget, Options.MemoryBytes. A
// tenant's equal part is 80% of the budget divided by the number of tenants with
// series in the head.
//
//   - Below 80% nothing is rejected for lack of memory.
//   - From 80%, sealed series are removed after 5 minutes without a sample instead of
//     30. They stay reserved (reserved.go) until the 30 minutes have passed. New series
//     of tenants above their equal part are rejected; the rest of the request is
//     accepted.
//   - From 88%, new series of all tenants are rejected.
//   - From 90%, requests of tenants above their equal part fail with ErrFull; from 95%,
//     requests of all tenants.
//
// For new series, used memory includes the memory reserved for series that were active
// before a restart or on another ingester.
//
// Existing series of a tenant within its equal part are therefore accepted up to 95%, and
// a burst of new series can use memory only up to 88%. Replay of the log accepts
// everything, because it was acknowledged. Series that another replica has
// (Batch.Established) and that these rules or max_active_series would reject as new are
// accepted until such series use a tenth of the budget.
const (
	pressurePercent = 80
	newPercent      = 88
	sharePercent    = 90
	fullPercent     = 95

	establishedPart = 10

	// pressedIdle replaces idleSeries from pressurePercent.
	pressedIdle = 5 * time.Minute
)

// filled reports whether at least the given percentage of the memory budget is
// used.
func (ing *Ingester) filled(percent int64) bool {
	m := ing.opts.MemoryBytes
	return m > 0 && ing.account.bytes.Load() >= partOf(m, percent)
}

func partOf(budget, percent int64) int64 { return budget/100*percent + budget%100*percent/100 }

// aboveEqualPart reports whether a tenant uses more of the head than its equal
// part. th is nil for a tenant without a head.
func (ing *Ingester) aboveEqualPart(th *tenantHead) bool {
	if th == nil {
		return false
	}
	return th.bytes.Load() > ing.equalPart()
}

func (ing *Ingester) equalPart() int64 {
	return partOf(ing.opts.MemoryBytes, pressurePercent) / max(1, ing.account.tenants.Load())
}

// checkMemory returns ErrFull if requests of the tenant must be rejected now.
func (ing *Ingester) checkMemory(id tenant.ID) error {
	if !ing.filled(sharePercent) || !ing.filled(fullPercent) && !ing.aboveEqualPart(ing.head(id, false)) {
		return nil
	}
	ing.metrics.fullRequests.Inc()
	return fmt.Errorf("%w: recent samples use %d of %d bytes (ingester.memory_bytes); retry the request: "+
		"older samples are being moved to disk", ErrFull, ing.account.bytes.Load(), ing.opts.MemoryBytes)
}

// rejectsNew reports whether new series of the tenant are rejected for lack of
// memory. Memory reserved for series (reserved.go) counts as used.
func (ing *Ingester) rejectsNew(th *tenantHead) bool {
	m, promised := ing.opts.MemoryBytes, ing.account.bytes.Load()+ing.account.held.Load()
	if m <= 0 || promised < partOf(m, pressurePercent) {
		return false
	}
	return promised >= partOf(m, newPercent) || th.bytes.Load()+th.held.Load() > ing.equalPart()
}

// takesEstablished reports whether an established series that needs `size` bytes can be
// accepted although a new one would be rejected. Without a memory budget it limits the
// number of such series instead of their bytes: to a tenth of `limit`, the tenant's local
// series limit. The caller holds th.mu.
func (ing *Ingester) takesEstablished(th *tenantHead, size int64, limit int) bool {
	if m := ing.opts.MemoryBytes; m > 0 {
		return ing.account.established.Load()+size <= m/establishedPart
	}
	return th.established < limit/establishedPart
}

// idleAfter returns how long a sealed series stays in the head without a sample.
func (ing *Ingester) idleAfter() time.Duration {
	if ing.filled(pressurePercent) {
		return pressedIdle
	}
	return idleSeries
}

// idleTimesAt returns the idleTimes for series that are removed after the given
// time without a sample.
func idleTimesAt(now time.Time, after time.Duration) idleTimes {
	return idleTimes{since: now.Add(-after).UnixMilli(), usual: now.Add(-idleSeries).UnixMilli()}
}
