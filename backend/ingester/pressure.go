package ingester

import (
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// How a full head is kept from stopping everybody. Used is what the head counts
// of the budget, Options.MemoryBytes; a tenant's equal part is 80% of the budget
// divided by the tenants that have series in the head.
//
//   - Below 80% everything is accepted.
//   - From 80% on, series that are sealed leave after 5 minutes without a sample,
//     not 30, and keep their places until then (places.go); new series of a tenant
//     above its equal part are rejected, each for itself, the rest of the request
//     is kept.
//   - From 88% on, new series of every tenant are.
//   - From 90% on, requests of a tenant above its equal part are answered with
//     ErrFull, from 95% on those of every tenant.
//
// For new series, used includes what places hold for series that were active
// before a restart.
//
// So known series of a tenant within its part go on up to 95%, and what a burst of
// new series can take ends at 88%. Replay of the log accepts everything: it was
// acknowledged. Series that another replica has (Batch.Established) are accepted
// in place of being rejected as new, by these rules or max_active_series, until
// those that were take a tenth of the budget.
const (
	pressurePercent = 80
	newPercent      = 88
	sharePercent    = 90
	fullPercent     = 95

	establishedPart = 10

	// pressedIdle is idleSeries from pressurePercent on.
	pressedIdle = 5 * time.Minute
)

// filled reports whether a percentage of the memory budget is used.
func (ing *Ingester) filled(percent int64) bool {
	m := ing.opts.MemoryBytes
	return m > 0 && ing.account.bytes.Load() >= partOf(m, percent)
}

func partOf(budget, percent int64) int64 { return budget/100*percent + budget%100*percent/100 }

// aboveEqualPart reports whether a tenant has more of the head than it would if
// all tenants had the same. th is nil for one that has nothing.
func (ing *Ingester) aboveEqualPart(th *tenantHead) bool {
	if th == nil {
		return false
	}
	return th.bytes.Load() > ing.equalPart()
}

func (ing *Ingester) equalPart() int64 {
	return partOf(ing.opts.MemoryBytes, pressurePercent) / max(1, ing.account.tenants.Load())
}

// checkMemory returns ErrFull when the tenant's requests cannot be taken now.
func (ing *Ingester) checkMemory(id tenant.ID) error {
	if !ing.filled(sharePercent) || !ing.filled(fullPercent) && !ing.aboveEqualPart(ing.head(id, false)) {
		return nil
	}
	ing.metrics.fullRequests.Inc()
	return fmt.Errorf("%w: recent samples use %d of %d bytes (ingester.memory_bytes); send the request again, "+
		"older samples are being moved to disk", ErrFull, ing.account.bytes.Load(), ing.opts.MemoryBytes)
}

// rejectsNew reports whether new series of the tenant are rejected for memory. To
// them, what is held for series with a place (places.go) is used.
func (ing *Ingester) rejectsNew(th *tenantHead) bool {
	m, promised := ing.opts.MemoryBytes, ing.account.bytes.Load()+ing.account.held.Load()
	if m <= 0 || promised < partOf(m, pressurePercent) {
		return false
	}
	return promised >= partOf(m, newPercent) || th.bytes.Load()+th.held.Load() > ing.equalPart()
}

// takesEstablished reports whether there is room for a series beyond its share.
// Without a budget they are counted, not their bytes; limit is the tenant's local
// series limit. The caller holds th.mu.
func (ing *Ingester) takesEstablished(th *tenantHead, size int64, limit int) bool {
	if m := ing.opts.MemoryBytes; m > 0 {
		return ing.account.established.Load()+size <= m/establishedPart
	}
	return th.established < limit/establishedPart
}

// idleAfter is how long a sealed series stays without a sample.
func (ing *Ingester) idleAfter() time.Duration {
	if ing.filled(pressurePercent) {
		return pressedIdle
	}
	return idleSeries
}

// idleTimesAt are those of series that leave when they had no sample for a time.
func idleTimesAt(now time.Time, after time.Duration) idleTimes {
	return idleTimes{since: now.Add(-after).UnixMilli(), usual: now.Add(-idleSeries).UnixMilli()}
}
