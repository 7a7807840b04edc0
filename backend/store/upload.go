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

// Upload describes a sealed pack of an ingester to be uploaded.
type Upload struct {
	Path     string // of the local file
	Object   string // name of the object
	CRC      uint32 // CRC-32C of the file
	Info     pack.Info
	Ingester string
	Zone     string
	Sealed   int64 // Unix milliseconds
	// Windows are the windows for which the pack has samples. Cleared are the windows
	// among them for which the ingester has no other pending samples: the upload
	// deletes their intents.
	Windows, Cleared []Window
}

// L0Object returns the object name of an ingester's pack with samples of one or
// several windows.
func L0Object(windows []Window, ingester string, id ulid.ULID) string {
	if len(windows) == 1 {
		return fmt.Sprintf("l0/%d/%02d/%s-%s%s", windows[0].Day, windows[0].Number, ingester, id, pack.Suffix)
	}
	return fmt.Sprintf("l0/late/%s-%s%s", ingester, id, pack.Suffix)
}

// Upload makes a sealed pack part of the store, by the steps F2 and F3 in
// docs/format/store.md. It enters the object into the garbage queue, writes the
// object, then a cell in the catalog of every tenant and day in the pack, and then
// the receipts. At the end it removes the garbage entry. All steps are idempotent:
// after a crash or an error the caller repeats the whole upload. When Upload returns
// nil, the samples are durable in the object store and the row store.
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
		// If the object existed before, a sweep may have deleted it since Put: then it
		// is stored again.
		switch _, err := s.opts.Objects.Stat(ctx, u.Object); {
		case err == nil:
			s.metrics.uploads.Inc()
			return s.uploaded(ctx, u)
		case !errors.Is(err, objects.ErrNotFound):
			return fmt.Errorf("upload %s: %w", u.Object, err)
		}
	}
	return fmt.Errorf("upload %s: the object was missing after each of 3 uploads", u.Object)
}

// journalL0 enters an L0 pack that is about to be uploaded into the garbage queue.
func (s *Store) journalL0(ctx context.Context, u Upload) error {
	return s.index.Garbage.Enter(ctx, u.Sealed+attemptDelay.Milliseconds(), schema.Garbage{Kind: index.GarbageAdopt, Name: u.Object})
}

// uploaded removes the garbage entry of a complete upload.
func (s *Store) uploaded(ctx context.Context, u Upload) error {
	return s.index.Garbage.Drop(ctx, u.Sealed+attemptDelay.Milliseconds(), u.Object)
}

// ErrBeingDeleted is wrapped by the error of an upload whose object a sweep may
// delete at any moment.
var ErrBeingDeleted = errors.New("a sweep has marked the object and may delete it; the upload is repeated afterwards")

// enter writes the index cells of an uploaded pack: the catalog cells first, because
// a receipt implies that compaction finds them. It fails with ErrBeingDeleted if a
// sweep has marked the object.
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

// l0Cells returns the catalog cells of a pack. Deleted tenants get none.
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

// deletedOf returns for each section of a pack whether its tenant was deleted. It
// checks them concurrently, since a pack may have ten thousand tenants.
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

// receipts returns the receipts of a pack, one for the work row of every day for
// which it has samples, with the intents that the upload clears. Each call returns
// receipts with a new attempt number, so that MarkConsumed cannot remove a receipt
// that was written after its caller read the previous one.
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
		for _, w := range u.Cleared {
			if w.Day == day {
				of.Cleared = append(of.Cleared, w.Number)
			}
		}
		out = append(out, of)
	}
	return out
}

// Consumed reports whether no work row has a receipt of an uploaded pack: its samples
// are in published compacted packs, beyond retention, or of deleted tenants.
func (s *Store) Consumed(ctx context.Context, info pack.Info) (bool, error) {
	left, err := s.index.Work.HasReceipt(ctx, info.ID, DaysOf(info))
	return !left, err
}

// DaysOf returns the days for which a pack has samples, ascending.
func DaysOf(info pack.Info) []int64 {
	days := map[int64]struct{}{}
	for i := range info.Sections {
		days[info.Sections[i].Day] = struct{}{}
	}
	return slices.Sorted(maps.Keys(days))
}

// MarkConsumed removes the receipt of a pack from a day's work. The caller calls it
// when no catalog of the day names the pack any more. The object is due for deletion
// after L0Delay, unless a receipt for another day is left then. A receipt that was
// rewritten since it was read stays: the upload was repeated, and catalogs may name
// the pack again.
func (s *Store) MarkConsumed(ctx context.Context, day int64, r ReceiptOf) error {
	if err := s.index.Garbage.Enter(ctx, s.nowMillis()+L0Delay.Milliseconds(),
		schema.Garbage{Kind: index.GarbageL0, Name: r.Object}); err != nil {
		return err
	}
	return s.index.Work.RemoveReceipt(ctx, day, r)
}
