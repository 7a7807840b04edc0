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

// Deletion of series. A deletion has a number; every pack says which was the
// last one that was applied to what it holds, and whoever reads a pack applies
// the later ones. So that a number means the same everywhere, it is reserved
// first (nobody applies it yet), then every ingester seals what it has and takes
// the number for what it seals from then on, and then it is activated.

// maxPending is how long a reserved deletion may wait to be activated. Until
// then nothing of the tenant is compacted.
const maxPending = 15 * time.Minute

// ErrPendingGone is returned when a deletion waited too long to be activated.
var ErrPendingGone = errors.New("deletion took too long to reach all ingesters; nothing was deleted, repeat it")

// InvalidDeletion is the error of a deletion that the index has no room for: the
// caller's to mend.
type InvalidDeletion string

func (e InvalidDeletion) Error() string { return string(e) }

// checkDeletion reports whether there is room for another deletion of the tenant.
func (k *Keeper) checkDeletion(ctx context.Context, t tenant.ID, d *schema.Tombstone) error {
	size := len(d.Encode())
	if size > schema.MaxTombstone {
		return InvalidDeletion(fmt.Sprintf("the matchers of the deletion have %d bytes, at most %d are possible; send several "+
			"deletions with fewer or shorter match[]", size, schema.MaxTombstone))
	}
	_, list, err := k.index.Catalogs.Readable(ctx, t, 0, 0)
	if err != nil {
		return err
	}
	if len(list) >= schema.MaxTombstones {
		return InvalidDeletion(fmt.Sprintf("the tenant has %d deletions of series that are not worked off yet, at most %d are "+
			"possible; delete more series at once, with wider matchers, or wait until older deletions are forgotten",
			len(list), schema.MaxTombstones))
	}
	program, err := instructionsOf(d, schema.MaxTombstoneInstructions)
	if err != nil {
		return InvalidDeletion(fmt.Sprintf("the regular expressions of the deletion have more than %d instructions once they are "+
			"compiled; use several deletions, or fewer alternatives and repetitions", schema.MaxTombstoneInstructions))
	}
	all := size
	for i := range list {
		all += len(list[i].Encode())
		n, err := instructionsOf(&list[i].Tombstone, schema.MaxTombstonesInstructions-program)
		if err != nil {
			return InvalidDeletion(fmt.Sprintf("the regular expressions of the tenant's deletions of series would have more than %d "+
				"instructions with those of this one; use shorter ones or wait until older deletions are forgotten", schema.MaxTombstonesInstructions))
		}
		program += n
	}
	if all > schema.MaxTombstonesBytes {
		return InvalidDeletion(fmt.Sprintf("the tenant's deletions of series would have %d bytes with this one, at most %d are "+
			"possible; use shorter matchers or wait until older deletions are forgotten",
			all, schema.MaxTombstonesBytes))
	}
	return nil
}

// instructionsOf counts the instructions of a deletion's regular expressions. The
// error is that they are more than most.
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

// Deletion is a request to delete series: those that one of the matcher sets matches,
// their samples in [MinTime, MaxTime] (Unix milliseconds).
type Deletion struct {
	Tenant           tenant.ID
	MinTime, MaxTime int64
	Sets             [][]*labels.Matcher
}

// DeleteSeries deletes a tenant's series everywhere. The order matters: the deletion
// is numbered; recent has all ingesters learn of it and seal what they have, so that
// whatever comes later is newer; then it holds for all packs. A step that fails leaves
// a reserved number, which deletes nothing; the caller repeats the request.
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

// ReserveDeletion numbers a deletion of the series that one of the matcher sets
// matches, of samples in [mint, maxt]. One that there is no room for is
// InvalidDeletion, and nothing is reserved.
func (k *Keeper) ReserveDeletion(ctx context.Context, t tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) (schema.Tombstone, error) {
	deletion := func(number uint64) schema.Tombstone {
		return schema.NewTombstone(number, mint, maxt, sets, k.nowMillis())
	}
	next := deletion(math.MaxUint64)
	if err := k.checkDeletion(ctx, t, &next); err != nil {
		return schema.Tombstone{}, fmt.Errorf("reserve a deletion: %w", err)
	}
	return k.index.Tombstones.Reserve(ctx, t, deletion)
}

// ActivateDeletion makes a reserved deletion hold for every pack with a lower
// number, at once, and asks for the compaction of the days that it touches.
func (k *Keeper) ActivateDeletion(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
	held, err := k.index.Tombstones.Activate(ctx, t, d)
	if err != nil {
		return err
	}
	if !held {
		return ErrPendingGone
	}
	return k.askRewrites(ctx, t, d)
}

// askRewrites enters the days with data that a deletion touches into the work.
func (k *Keeper) askRewrites(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
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
	return k.index.Work.AskRewrites(ctx, t, days)
}

// CancelDeletions gives up reserved deletions that were never activated.
func (k *Keeper) CancelDeletions(ctx context.Context, t tenant.ID, d index.Deletions) error {
	var over []uint64
	for i := range d {
		if p := &d[i]; p.State == schema.Pending && k.nowMillis()-p.Created > maxPending.Milliseconds() {
			over = append(over, p.Number)
		}
	}
	return k.index.Tombstones.Cancel(ctx, t, over)
}

// ForgetDeletions drops the deletions that were created before a time and that
// no compacted pack of theirs lacks. Those that some lack are asked for again.
func (k *Keeper) ForgetDeletions(ctx context.Context, t tenant.ID, before int64) error {
	_, deletions, err := k.index.Catalogs.Held(ctx, t, 0, 0)
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
			if err := k.askRewrites(ctx, t, d.Tombstone); err != nil {
				return err
			}
			continue
		}
		if aside, err := k.index.Work.HasAside(ctx, t); err != nil || aside {
			return err // files of an ingester may be older than the deletion
		}
		if err := k.index.Tombstones.Forget(ctx, t, d.Number); err != nil {
			return err
		}
	}
	return nil
}

// needed reports whether some pack was written before the deletion.
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
