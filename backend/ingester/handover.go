package ingester

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
)

// An ingester that leaves, or that joins with an empty disk, moves series to one
// that does not know them. The list of active series goes with them: the leaving
// one sends it, the joining one asks for it, and who gets it keeps places.

// HandOverSlice is the most series of one ActiveSeries.
const HandOverSlice = 100_000

// maxHandedOver is how many series may have places when further ones are handed
// over: what they take is bounded without a memory budget, too.
const maxHandedOver = 4_000_000

// ErrHandOver is returned for an ActiveSeries that is not valid.
var ErrHandOver = errors.New("list of active series is not valid")

// ActiveSeries is a part of the active series of a tenant.
type ActiveSeries struct {
	Tenant  tenant.ID
	Bytes   int64    // that one of them takes in memory without samples, on average
	Hashes  []uint64 // of their labels
	Seconds []uint32 // for which each keeps its place if it is not sent meanwhile
}

// Takes reports whether an ingester takes a series of a tenant with the hash of
// its labels.
type Takes func(id tenant.ID, hash uint64) bool

// EachActive calls fn for slices of the active series of all tenants, tenant by
// tenant. Pushes go on meanwhile.
func (ing *Ingester) EachActive(ctx context.Context, fn func(*ActiveSeries) error) error {
	for _, th := range ing.heads() {
		l := th.activeNow(ing.opts.Now())
		for i := range l.series {
			e := &l.series[i]
			e.seconds = uint32(max(1, activeMaxAge-int64(e.seconds)))
		}
		for part := range slices.Chunk(append(l.series, l.places...), HandOverSlice) {
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

// Only returns the part of the series for which keep returns true.
func (a *ActiveSeries) Only(keep func(hash uint64) bool) *ActiveSeries {
	out := &ActiveSeries{Tenant: a.Tenant, Bytes: a.Bytes}
	for i, hash := range a.Hashes {
		if keep(hash) {
			out.Hashes, out.Seconds = append(out.Hashes, hash), append(out.Seconds, a.Seconds[i])
		}
	}
	return out
}

// ActiveSeries sends the active series that an instance takes, or will take once
// it is active. It is what an ingester asks that joins.
func (ing *Ingester) ActiveSeries(ctx context.Context, instance string, send func(*ActiveSeries) error) error {
	if ing.opts.TakenBy == nil {
		return fmt.Errorf("%w: this ingester is in no cluster", ErrHandOver)
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

// KeepPlaces keeps places for series that were active on another ingester, as far
// as they are not known here. They are kept beyond the tenant's limit, too; what
// there is no memory for is dropped. Both are counted.
func (ing *Ingester) KeepPlaces(ctx context.Context, a *ActiveSeries) error {
	if len(a.Hashes) != len(a.Seconds) || len(a.Hashes) > HandOverSlice {
		return fmt.Errorf("%w: %d series with %d times, at most %d are handed over at once",
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

// keeping is one call of KeepPlaces.
type keeping struct {
	ing   *Ingester
	th    *tenantHead
	limit int // of series here; 0 is none
	held  uint16
}

// keep keeps places for a slice of series.
func (k *keeping) keep(list []activeEntry) {
	ing, th, now := k.ing, k.th, k.ing.opts.Now()
	th.mu.Lock()
	defer th.mu.Unlock()
	kept, above, dropped := 0, 0, 0
	eachHash(list, func(e activeEntry, n uint16) {
		if ing.account.places.Load() >= maxHandedOver || ing.filled(newPercent) {
			dropped += int(n)
			return
		}
		before := th.placed
		th.keepPlace(e.hash, place{until: placeUntil(now.UnixMilli()+int64(e.seconds)*1000, now), held: k.held, series: n})
		if added := th.placed - before; added > 0 {
			if kept += added; k.limit > 0 && th.count+th.placed > k.limit {
				above += added
			}
		}
	})
	m := ing.metrics.handedOver
	m.WithLabelValues("kept").Add(float64(kept - above))
	m.WithLabelValues("above_share").Add(float64(above))
	m.WithLabelValues("dropped").Add(float64(dropped))
}
