package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// Deletions of series are numbered. Every pack records the number of the last deletion
// applied to its samples, and readers of the pack apply the later ones. For the numbers
// to have the same meaning in all packs, a deletion is first reserved (not applied
// yet); then every ingester seals its head and gives the number to the packs that it
// seals from then on; then the deletion is activated.

// maxPending is the time after which a reserved deletion that was not activated is
// canceled. While a deletion is reserved, the tenant is not compacted.
const maxPending = 15 * time.Minute

// ErrPendingGone is returned when a deletion was canceled because it was not
// activated within maxPending.
var ErrPendingGone = errors.New("deletion took too long to reach all ingesters; nothing was deleted: repeat the request")

// InvalidDeletion is the error of a deletion that exceeds a limit of the index. The
// caller can correct the request.
type InvalidDeletion string

// Error implements error.
func (e InvalidDeletion) Error() string { return string(e) }

// checkDeletion returns InvalidDeletion if another deletion would exceed a limit of the
// tenant's deletions.
func (k *Keeper) checkDeletion(ctx context.Context, t tenant.ID, d *schema.Tombstone) error {
	size := len(d.Encode())
	if size > schema.MaxTombstone {
		return InvalidDeletion(fmt.Sprintf("the matchers of the deletion have %d bytes, the limit is %d: send several "+
			"deletions with fewer or shorter match[]", size, schema.MaxTombstone))
	}
	_, list, err := k.index.Catalogs.Readable(ctx, t, 0, 0)
	if err != nil {
		return err
	}
	if len(list) >= schema.MaxTombstones {
		return InvalidDeletion(fmt.Sprintf("the tenant has %d unfinished deletions of series, the limit is %d: "+
			"delete more series at once, with wider matchers, or wait until older deletions are finished",
			len(list), schema.MaxTombstones))
	}
	program, err := instructionsOf(d, schema.MaxTombstoneInstructions)
	if err != nil {
		return InvalidDeletion(fmt.Sprintf("the compiled regular expressions of the deletion have more than %d instructions: "+
			"send several deletions, or use fewer alternatives and repetitions", schema.MaxTombstoneInstructions))
	}
	all := size
	for i := range list {
		all += len(list[i].Encode())
		n, err := instructionsOf(&list[i].Tombstone, schema.MaxTombstonesInstructions-program)
		if err != nil {
			return InvalidDeletion(fmt.Sprintf("with this deletion, the compiled regular expressions of the tenant's deletions of series "+
				"would have more than %d instructions: use shorter ones, or wait until older deletions are finished",
				schema.MaxTombstonesInstructions))
		}
		program += n
	}
	if all > schema.MaxTombstonesBytes {
		return InvalidDeletion(fmt.Sprintf("with this deletion, the tenant's deletions of series would have %d bytes, the limit is %d: "+
			"use shorter matchers, or wait until older deletions are finished",
			all, schema.MaxTombstonesBytes))
	}
	return nil
}

// instructionsOf returns the number of instructions of a deletion's compiled regular
// expressions, or an error if the number exceeds most.
func instructionsOf(d *schema.Tombstone, most int) (int, error) {
	sum := 0
	for _, set := range d.Sets {
		for _, m := range set {
			if m.Type != labels.MatchRegexp && m.Type != labels.MatchNotRegexp {
				continue
			}
			n, err := regexsize.Pattern(m.Value, most-sum)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// Deletion is a request to delete the samples in [MinTime, MaxTime] (Unix
// milliseconds) of the series that match one of the sets of matchers.
type Deletion struct {
	Tenant           tenant.ID
	MinTime, MaxTime int64
	Sets             [][]*labels.Matcher
}

// DeleteSeries deletes a tenant's series in ingesters and in the long-term store. It
// reserves the number of the deletion, calls the function `recent`, which makes all
// ingesters record the deletion and seal their heads, and then activates the deletion for
// all packs with a lower number. The order matters: samples received after the deletion must
// get into packs with its number. If `recent` fails, the reserved number deletes nothing.
// After an error other than InvalidDeletion the caller repeats the request.
func (k *Keeper) DeleteSeries(ctx context.Context, d Deletion, recent func(context.Context, tenant.ID, schema.Tombstone) error) error {
	reserved, err := k.ReserveDeletion(ctx, d.Tenant, d.MinTime, d.MaxTime, d.Sets)
	if err != nil {
		return err
	}
	if err := recent(ctx, d.Tenant, reserved); err != nil {
		return err
	}
	return k.ActivateDeletion(ctx, d.Tenant, reserved)
}

// ReserveDeletion reserves a number for a deletion of the samples in [mint, maxt] of
// the series that match one of the sets of matchers. It returns InvalidDeletion if the
// deletion exceeds a limit.
func (k *Keeper) ReserveDeletion(ctx context.Context, t tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) (schema.Tombstone, error) {
	deletion := func(number uint64) schema.Tombstone {
		return schema.NewTombstone(number, mint, maxt, sets, k.nowMillis())
	}
	next := deletion(math.MaxUint64)
	if err := k.checkDeletion(ctx, t, &next); err != nil {
		return schema.Tombstone{}, fmt.Errorf("delete series: %w", err)
	}
	return k.index.Tombstones.Reserve(ctx, t, deletion)
}

// ActivateDeletion applies a reserved deletion to all packs with a lower number, from
// now on, and requests rewrites of the days with affected packs. It returns
// ErrPendingGone if the deletion was canceled.
func (k *Keeper) ActivateDeletion(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
	held, err := k.index.Tombstones.Activate(ctx, t, d)
	if err != nil {
		return err
	}
	if !held {
		return ErrPendingGone
	}
	return k.requestRewrites(ctx, t, d)
}

// requestRewrites adds a rewrite to the work of each published day to which a deletion
// was not applied yet.
func (k *Keeper) requestRewrites(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
	first, last, ok := store.DayRange(d.MinTime, d.MaxTime)
	if !ok {
		return nil
	}
	list, _, err := k.index.Catalogs.Readable(ctx, t, first, last)
	if err != nil {
		return err
	}
	var days []int64
	for i := range list {
		if m := list[i].Manifest; m != nil && m.Tombstone < d.Number {
			days = append(days, list[i].Day)
		}
	}
	return k.index.Work.RequestRewrites(ctx, t, days)
}

// CancelDeletions cancels deletions that were reserved more than maxPending ago and not
// activated.
func (k *Keeper) CancelDeletions(ctx context.Context, t tenant.ID, d index.Deletions) error {
	var over []uint64
	for i := range d {
		if p := &d[i]; p.State == schema.Pending && k.nowMillis()-p.Created > maxPending.Milliseconds() {
			over = append(over, p.Number)
		}
	}
	return k.index.Tombstones.Cancel(ctx, t, over)
}

// ForgetDeletions deletes the records of deletions created before a time (Unix
// milliseconds) that are applied to all packs of their range. For the others it
// requests the rewrites again. It deletes no record while the tenant has series set
// aside, which may be older than the deletion.
func (k *Keeper) ForgetDeletions(ctx context.Context, t tenant.ID, before int64) error {
	_, deletions, err := k.index.Catalogs.Held(ctx, t, 0, 0)
	if err != nil {
		return err
	}
	aside, err := k.index.Work.HasAside(ctx, t)
	if err != nil {
		return err
	}
	for i := range deletions {
		d := &deletions[i]
		if d.State != schema.Active || d.Created >= before {
			continue
		}
		first, last, ok := store.DayRange(d.MinTime, d.MaxTime)
		if !ok {
			continue
		}
		list, _, err := k.index.Catalogs.Held(ctx, t, first, last)
		if err != nil {
			return err
		}
		if needed(list, d.Number) {
			if err := k.requestRewrites(ctx, t, d.Tombstone); err != nil {
				return err
			}
			continue
		}
		if aside {
			continue
		}
		if err := k.index.Tombstones.Forget(ctx, t, d.Number); err != nil {
			return err
		}
	}
	return nil
}

// needed reports whether a deletion is not applied to some pack yet.
func needed(list []index.Catalog, number uint64) bool {
	for i := range list {
		if m := list[i].Manifest; m != nil && m.Tombstone < number {
			return true
		}
		for n := range list[i].L0 {
			if list[i].L0[n].Tombstone < number {
				return true
			}
		}
	}
	return false
}
