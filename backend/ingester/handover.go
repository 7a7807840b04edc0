package ingester

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
)

// When an ingester leaves, or joins with an empty disk, series are sent to ingesters
// that do not have them. The list of active series is handed over too: a
// leaving ingester sends it, a joining one requests it, and the receiver reserves
// the series.

// HandOverSlice is the maximum number of series in one ActiveSeries.
const HandOverSlice = 100_000

// maxHandedOver is the number of reserved series at which a handover accepts no
// more, so that their memory is bounded even without a memory budget.
const maxHandedOver = 4_000_000

// ErrHandOver is returned for an invalid ActiveSeries, and by an ingester outside a
// cluster.
var ErrHandOver = errors.New("active series cannot be handed over")

// ActiveSeries is a part of a tenant's active series.
type ActiveSeries struct {
	Tenant  tenant.ID
	Bytes   int64    // average bytes of one series with a chunk that was just begun
	Hashes  []uint64 // hashes of the series' labels
	Seconds []uint32 // seconds for which each series stays reserved if it is not sent
}

// Takes reports whether an ingester receives the series of a tenant with the given
// hash of labels.
type Takes func(id tenant.ID, hash uint64) bool

// EachActive calls fn for slices of the active and reserved series of all tenants,
// tenant by tenant. It runs concurrently with pushes.
func (ing *Ingester) EachActive(ctx context.Context, fn func(*ActiveSeries) error) error {
	for _, th := range ing.heads() {
		l := th.activeNow(ing.opts.Now())
		for i := range l.series {
			e := &l.series[i]
			e.seconds = uint32(max(1, activeMaxAge-int64(e.seconds)))
		}
		for part := range slices.Chunk(append(l.series, l.reserved...), HandOverSlice) {
			if err := ctx.Err(); err != nil {
				return err
			}
			a := &ActiveSeries{Tenant: l.tenant, Bytes: l.bytes, Hashes: make([]uint64, len(part)), Seconds: make([]uint32, len(part))}
			for i, e := range part {
				a.Hashes[i], a.Seconds[i] = e.hash, e.seconds
			}
			if err := fn(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// Only returns the series for which `keep` returns true.
func (a *ActiveSeries) Only(keep func(hash uint64) bool) *ActiveSeries {
	out := &ActiveSeries{Tenant: a.Tenant, Bytes: a.Bytes}
	for i, hash := range a.Hashes {
		if keep(hash) {
			out.Hashes, out.Seconds = append(out.Hashes, hash), append(out.Seconds, a.Seconds[i])
		}
	}
	return out
}

// ActiveSeries sends the active and reserved series that the instance receives, or
// will receive once it is ACTIVE. A joining ingester calls it on all other
// ingesters.
func (ing *Ingester) ActiveSeries(ctx context.Context, instance string, send func(*ActiveSeries) error) error {
	if ing.opts.TakenBy == nil {
		return fmt.Errorf("%w: this ingester is not in a cluster", ErrHandOver)
	}
	takes, err := ing.opts.TakenBy(ctx, instance)
	if err != nil {
		return fmt.Errorf("find the series of %s: %w", instance, err)
	}
	return ing.EachActive(ctx, func(a *ActiveSeries) error {
		if a = a.Only(func(hash uint64) bool { return takes(a.Tenant, hash) }); len(a.Hashes) == 0 {
			return nil
		}
		return send(a)
	})
}

// ReserveSeries reserves series that were active on another ingester and that this one
// does not have. They are reserved even beyond the tenant's limit, but dropped if
// there is no memory for them or if maxHandedOver series are reserved. All three
// outcomes are counted.
func (ing *Ingester) ReserveSeries(ctx context.Context, a *ActiveSeries) error {
	if len(a.Hashes) != len(a.Seconds) || len(a.Hashes) > HandOverSlice {
		return fmt.Errorf("%w: %d series and %d reservation times; the numbers must be equal and at most %d",
			ErrHandOver, len(a.Hashes), len(a.Seconds), HandOverSlice)
	}
	if len(a.Hashes) == 0 || ing.tenantGone(ctx, a.Tenant) {
		return nil
	}
	lim := ing.opts.Limits(a.Tenant)
	k := keeping{ing: ing, th: ing.head(a.Tenant, true), limit: ing.localSeriesLimit(a.Tenant, &lim), held: heldUnits(a.Bytes)}
	list := make([]activeEntry, len(a.Hashes))
	for i, hash := range a.Hashes {
		list[i] = activeEntry{hash: hash, seconds: a.Seconds[i]}
	}
	l := activeList{series: list}
	l.sort()
	for part := range slices.Chunk(l.series, sliceSeries) {
		if err := ctx.Err(); err != nil {
			return err
		}
		k.keep(part)
	}
	return nil
}

// keeping is the state of one call of ReserveSeries.
type keeping struct {
	ing   *Ingester
	th    *tenantHead
	limit int // local series limit; 0 = unlimited
	held  uint16
}

// keep reserves a slice of series.
func (k *keeping) keep(list []activeEntry) {
	ing, th, now := k.ing, k.th, k.ing.opts.Now()
	th.mu.Lock()
	defer th.mu.Unlock()
	kept, above, dropped := 0, 0, 0
	eachHash(list, func(e activeEntry, n uint16) {
		if ing.account.reserved.Load() >= maxHandedOver || ing.filled(newPercent) {
			dropped += int(n)
			return
		}
		before := th.reservedCount
		th.reserve(e.hash, seriesReservation{until: reservedUntil(now.UnixMilli()+int64(e.seconds)*1000, now), held: k.held, series: n})
		if added := th.reservedCount - before; added > 0 {
			if kept += added; k.limit > 0 && th.count+th.reservedCount > k.limit {
				above += added
			}
		}
	})
	m := ing.metrics.handedOver
	m.WithLabelValues("kept").Add(float64(kept - above))
	m.WithLabelValues("above_share").Add(float64(above))
	m.WithLabelValues("dropped").Add(float64(dropped))
}
