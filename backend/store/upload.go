package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
)

// Upload is a sealed pack of an ingester that is to become part of the store.
type Upload struct {
	Path     string // of the local file
	Object   string // name of the object
	CRC      uint32 // CRC-32C of the file
	Info     pack.Info
	Ingester string
	Zone     string
	Sealed   int64 // Unix milliseconds
	// Windows are the windows of which the pack has samples. Settled are those
	// of them of which the ingester owes nothing more: their intents go.
	Windows, Settled []Window
}

// L0Object is the name of an ingester's pack that holds samples of one window,
// or of several.
func L0Object(windows []Window, ingester string, id ulid.ULID) string {
	if len(windows) == 1 {
		return fmt.Sprintf("l0/%d/%02d/%s-%s%s", windows[0].Day, windows[0].Number, ingester, id, pack.Suffix)
	}
	return fmt.Sprintf("l0/late/%s-%s%s", ingester, id, pack.Suffix)
}

// Upload makes a sealed pack part of the store: the object first (F2), then a
// cell in the catalog of every tenant and day in it, then the receipts (F3).
// Every step may be repeated, and a repetition of all of them is how a crash
// between any two is mended. When it returns nil the samples are as safe as the
// two stores are.
func (s *Store) Upload(ctx context.Context, u Upload) error {
	if err := s.journalL0(ctx, u); err != nil {
		return fmt.Errorf("upload %s: %w", u.Object, err)
	}
	for range 3 {
		obj, err := s.opts.Objects.Put(ctx, u.Object, u.Path, u.CRC)
		if err != nil {
			return fmt.Errorf("upload %s: %w", u.Object, err)
		}
		if err := s.enter(ctx, u, obj); err != nil {
			return fmt.Errorf("upload %s: %w", u.Object, err)
		}
		// An object that was there before may have been on its way out: then it is
		// stored again.
		switch _, err := s.opts.Objects.Stat(ctx, u.Object); {
		case err == nil:
			s.metrics.uploads.Inc()
			return s.uploaded(ctx, u)
		case !errors.Is(err, objects.ErrNotFound):
			return fmt.Errorf("upload %s: %w", u.Object, err)
		}
	}
	return fmt.Errorf("upload %s: it is deleted as soon as it is stored", u.Object)
}

// journalL0 enters an L0 pack that is about to be uploaded.
func (s *Store) journalL0(ctx context.Context, u Upload) error {
	return s.index.Garbage.Enter(ctx, u.Sealed+attemptDelay.Milliseconds(), schema.Garbage{Kind: index.GarbageAdopt, Name: u.Object})
}

// uploaded takes the journal's entry of an upload that ended.
func (s *Store) uploaded(ctx context.Context, u Upload) error {
	return s.index.Garbage.Drop(ctx, u.Sealed+attemptDelay.Milliseconds(), u.Object)
}

// ErrBeingDeleted is in the error of an upload whose object may be deleted at any
// moment.
var ErrBeingDeleted = errors.New("the sweep is about to delete the object, which was compacted before; the upload is repeated after that")

// enter writes what the index says of an uploaded pack: cells first, since a
// receipt says that compaction sees them. It fails if the object is on its way
// out.
func (s *Store) enter(ctx context.Context, u Upload, obj objects.Object) error {
	cells, err := s.l0Cells(ctx, u, obj)
	if err != nil {
		return err
	}
	if err := s.index.Catalogs.AddL0(ctx, u.Info.ID, cells); err != nil {
		return err
	}
	if err := s.index.Work.AddReceipts(ctx, u.Info.ID, receipts(u, obj)); err != nil {
		return err
	}
	marked, err := s.index.Garbage.Marked(ctx, u.Object)
	if err == nil && marked {
		err = ErrBeingDeleted
	}
	return err
}

// l0Cells makes the catalog cells of a pack. Tenants that were deleted get none.
func (s *Store) l0Cells(ctx context.Context, u Upload, obj objects.Object) ([]index.L0Cell, error) {
	gone, err := s.deletedOf(ctx, u.Info)
	if err != nil {
		return nil, err
	}
	var out []index.L0Cell
	for i := range u.Info.Sections {
		sec := &u.Info.Sections[i]
		if gone[i] {
			continue
		}
		stamp, _, err := s.Stamp(ctx, sec.Tenant, sec.Day)
		if err != nil {
			return nil, err
		}
		e := schema.L0Entry{Object: u.Object, ObjectSize: obj.Size, Ingester: u.Ingester,
			Offset: sec.Offset, Length: sec.Length, CRC: sec.CRC, MinTime: sec.MinTime, MaxTime: sec.MaxTime,
			Series: int64(sec.Series), Samples: sec.Samples, Tombstone: sec.Deletion, Sealed: u.Sealed}
		out = append(out, index.L0Cell{TenantDay: index.TenantDay{Tenant: sec.Tenant, Day: sec.Day}, Stamp: stamp, Entry: e})
	}
	return out, nil
}

// deletedOf tells of each section whether its tenant was deleted. The questions
// go side by side: a pack may have ten thousand tenants.
func (s *Store) deletedOf(ctx context.Context, info pack.Info) ([]bool, error) {
	gone := make([]bool, len(info.Sections))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxGets)
	for i := range info.Sections {
		g.Go(func() (err error) {
			if gone[i], err = s.opts.Deleted(ctx, info.Sections[i].Tenant); err != nil {
				return fmt.Errorf("tenant %s: %w", info.Sections[i].Tenant, err)
			}
			return nil
		})
	}
	return gone, g.Wait()
}

// receipts makes the receipts of a pack: one in the work row of every day it has
// samples of, in one mutation with the end of the intents that it settles. Each
// call makes other ones: Discharge must not take those that it has not seen.
func receipts(u Upload, obj objects.Object) []index.DayReceipt {
	tenants := map[int64]map[tenant.ID]struct{}{}
	for i := range u.Info.Sections {
		day := u.Info.Sections[i].Day
		if tenants[day] == nil {
			tenants[day] = map[tenant.ID]struct{}{}
		}
		tenants[day][u.Info.Sections[i].Tenant] = struct{}{}
	}
	attempt := rand.Uint64()
	var out []index.DayReceipt
	for _, day := range slices.Sorted(maps.Keys(tenants)) {
		r := schema.Receipt{Object: u.Object, Size: obj.Size, CRC: u.CRC, Ingester: u.Ingester, Zone: u.Zone,
			Tenants: len(tenants[day]), Sealed: u.Sealed, Attempt: attempt}
		for _, w := range u.Windows {
			if w.Day == day {
				r.Windows = append(r.Windows, w.Number)
			}
		}
		of := index.DayReceipt{Day: day, Receipt: r}
		for _, w := range u.Settled {
			if w.Day == day {
				of.Settled = append(of.Settled, w.Number)
			}
		}
		out = append(out, of)
	}
	return out
}

// Consumed reports whether all of an uploaded pack is in published compacted
// packs: no work row has a receipt of it any more.
func (s *Store) Consumed(ctx context.Context, info pack.Info) (bool, error) {
	left, err := s.index.Work.HasReceipt(ctx, info.ID, DaysOf(info))
	return !left, err
}

// DaysOf lists the days that a pack has samples of.
func DaysOf(info pack.Info) []int64 {
	days := map[int64]struct{}{}
	for i := range info.Sections {
		days[info.Sections[i].Day] = struct{}{}
	}
	return slices.Sorted(maps.Keys(days))
}

// Discharge takes the receipt of a pack out of a day's work once no catalog of
// the day names the pack any more. When it was the pack's last day, the object
// is due to be deleted later. A receipt that was rewritten since it was read
// stays: the upload was repeated, and catalogs may name the pack again.
func (s *Store) Discharge(ctx context.Context, day int64, r ReceiptOf) error {
	if err := s.index.Garbage.Enter(ctx, s.nowMillis()+L0Delay.Milliseconds(),
		schema.Garbage{Kind: index.GarbageL0, Name: r.Object}); err != nil {
		return err
	}
	return s.index.Work.TakeReceipt(ctx, day, r)
}
