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
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
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

// Window is one aligned window of a UTC day.
type Window struct {
	Day    int64
	Number int // 0 to 11
}

// WindowOf is the window that holds t.
func WindowOf(t int64) Window {
	return Window{Day: series.Day(t), Number: int(t-series.Day(t)*series.DayMillis) / int(series.WindowMillis)}
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

// enter writes what the index says of an uploaded pack: cells first, since a
// receipt says that compaction sees them. It fails if the object is on its way
// out.
func (s *Store) enter(ctx context.Context, u Upload, obj objects.Object) error {
	cells, err := s.l0Cells(ctx, u, obj)
	if err != nil {
		return err
	}
	if err := s.mutateRows(ctx, cells); err != nil {
		return fmt.Errorf("write catalog cells: %w", err)
	}
	if err := s.mutateRows(ctx, s.receipts(u, obj)); err != nil {
		return fmt.Errorf("write receipts: %w", err)
	}
	return s.unmarked(ctx, u.Object)
}

// l0Cells makes the catalog cells of a pack. Tenants that were deleted get none.
func (s *Store) l0Cells(ctx context.Context, u Upload, obj objects.Object) ([]rows.RowMutation, error) {
	gone, err := s.deletedOf(ctx, u.Info)
	if err != nil {
		return nil, err
	}
	var out []rows.RowMutation
	for i := range u.Info.Sections {
		sec := &u.Info.Sections[i]
		if gone[i] {
			continue
		}
		stamp, _, err := s.stamp(ctx, sec.Tenant, sec.Day)
		if err != nil {
			return nil, err
		}
		e := schema.L0Entry{Object: u.Object, ObjectSize: obj.Size, Ingester: u.Ingester,
			Offset: sec.Offset, Length: sec.Length, CRC: sec.CRC, MinTime: sec.MinTime, MaxTime: sec.MaxTime,
			Series: int64(sec.Series), Samples: sec.Samples, Tombstone: sec.Deletion, Sealed: u.Sealed}
		out = append(out, rows.RowMutation{Key: schema.CatalogKey(sec.Tenant, sec.Day),
			Mutations: []rows.Mutation{rows.Set(rows.Data, schema.L0Qualifier(u.Info.ID), stamp, e.Encode())}})
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
func (s *Store) receipts(u Upload, obj objects.Object) []rows.RowMutation {
	tenants := map[int64]map[tenant.ID]struct{}{}
	for i := range u.Info.Sections {
		day := u.Info.Sections[i].Day
		if tenants[day] == nil {
			tenants[day] = map[tenant.ID]struct{}{}
		}
		tenants[day][u.Info.Sections[i].Tenant] = struct{}{}
	}
	attempt := rand.Uint64()
	var out []rows.RowMutation
	for _, day := range slices.Sorted(maps.Keys(tenants)) {
		r := schema.Receipt{Object: u.Object, Size: obj.Size, CRC: u.CRC, Ingester: u.Ingester, Zone: u.Zone,
			Tenants: len(tenants[day]), Sealed: u.Sealed, Attempt: attempt}
		for _, w := range u.Windows {
			if w.Day == day {
				r.Windows = append(r.Windows, w.Number)
			}
		}
		ms := []rows.Mutation{rows.Set(rows.System, schema.ReceiptQualifier(u.Info.ID), 0, r.Encode())}
		for _, w := range u.Settled {
			if w.Day == day {
				ms = append(ms, rows.DeleteColumn(rows.System, schema.IntentQualifier(w.Number, u.Ingester)))
			}
		}
		out = append(out, rows.RowMutation{Key: schema.WorkKey(day), Mutations: ms})
	}
	return out
}

// Intend says in the work rows that an ingester has samples of the windows that
// no receipt stands for yet.
func (s *Store) Intend(ctx context.Context, ingester string, windows map[Window]schema.Intent) error {
	byDay := map[int64][]rows.Mutation{}
	for w, in := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.Set(rows.System, schema.IntentQualifier(w.Number, ingester), 0, in.Encode()))
	}
	return s.mutateWork(ctx, byDay, "write intents")
}

// Settle takes intents back of which nothing is owed any more.
func (s *Store) Settle(ctx context.Context, ingester string, windows []Window) error {
	byDay := map[int64][]rows.Mutation{}
	for _, w := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.DeleteColumn(rows.System, schema.IntentQualifier(w.Number, ingester)))
	}
	return s.mutateWork(ctx, byDay, "take intents back")
}

func (s *Store) mutateWork(ctx context.Context, byDay map[int64][]rows.Mutation, what string) error {
	var ms []rows.RowMutation
	for day, m := range byDay {
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(day), Mutations: m})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Intents lists the windows of which an ingester has said that it owes samples.
func (s *Store) Intents(ctx context.Context, ingester string) ([]Window, error) {
	var out []Window
	err := s.eachWork(ctx, func(d *DayWork) error {
		for _, in := range d.Intents {
			if in.Ingester == ingester {
				out = append(out, Window{Day: d.Day, Number: in.Window})
			}
		}
		return nil
	})
	return out, err
}

// Consumed reports whether all of an uploaded pack is in published compacted
// packs: no work row has a receipt of it any more.
func (s *Store) Consumed(ctx context.Context, info pack.Info) (bool, error) {
	var keys []rows.Range
	for day := range daysOf(info) {
		keys = append(keys, rows.Single(schema.WorkKey(day)))
	}
	left := 0
	for len(keys) > 0 && left == 0 {
		n := min(len(keys), rows.MaxRanges)
		err := s.opts.Rows.ReadRows(ctx, keys[:n], rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: []string{schema.ReceiptQualifier(info.ID)}, Latest: true},
			func(rows.Row) bool { left++; return true })
		if err != nil {
			return false, fmt.Errorf("read receipts: %w", err)
		}
		keys = keys[n:]
	}
	return left == 0, nil
}

func daysOf(info pack.Info) map[int64]struct{} {
	out := map[int64]struct{}{}
	for i := range info.Sections {
		out[info.Sections[i].Day] = struct{}{}
	}
	return out
}

// mutateRows applies rows in batches and joins what went wrong. A row may come
// several times: it is in one batch once.
func (s *Store) mutateRows(ctx context.Context, ms []rows.RowMutation) error {
	for len(ms) > 0 {
		n, bytes, mutations := 0, 0, 0
		keys := map[string]bool{}
		for n < len(ms) && n < 1000 && !keys[ms[n].Key] && (n == 0 || bytes < 2<<20 && mutations+len(ms[n].Mutations) < rows.MaxMutations) {
			keys[ms[n].Key] = true
			for _, m := range ms[n].Mutations {
				bytes += len(m.Qualifier) + len(m.Value)
			}
			mutations += len(ms[n].Mutations)
			n++
		}
		if err := errors.Join(s.opts.Rows.MutateRows(ctx, ms[:n])...); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}
