package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// errBeingDeleted says that the object of an upload may be deleted at any moment.
var errBeingDeleted = errors.New("the sweep is about to delete the object, which was compacted before; the upload is repeated after that")

// collectL0 deletes a consumed L0 pack, unless it was entered again since. It
// marks the object before it looks, and an upload looks for the mark after it has
// written: so one of the two sees the other.
func (s *Store) collectL0(ctx context.Context, e schema.Garbage, report *SweepReport) error {
	obj, info, err := s.l0Info(ctx, e.Name)
	if errors.Is(err, objects.ErrNotFound) {
		return s.unmark(ctx, e.Name)
	}
	if err != nil {
		return err
	}
	if err := s.dueObject(ctx, e.Name, garbageL0, markDue); err != nil {
		return err
	}
	needed, err := s.l0Needed(ctx, obj, info)
	if err != nil {
		return err
	}
	if needed {
		report.Kept++
		return s.unmark(ctx, e.Name)
	}
	if err := s.opts.Objects.Delete(ctx, e.Name); err != nil {
		return err
	}
	report.Objects++
	if err := s.takeBack(ctx, e.Name, info); err != nil {
		return err
	}
	return s.unmark(ctx, e.Name)
}

// takeBack deletes what an upload wrote while its object was deleted: cells and
// receipts. All of the pack is in compacted ones. The upload fails, or stores the
// object again just before: so that is due once more.
func (s *Store) takeBack(ctx context.Context, object string, info pack.Info) error {
	keys, err := s.catalogsWith(ctx, info)
	if err != nil {
		return err
	}
	consumed, err := s.Consumed(ctx, info)
	if err != nil || consumed && len(keys) == 0 {
		return err
	}
	if err := s.dueObject(ctx, object, garbageL0, s.nowMillis()+l0Delay.Milliseconds()); err != nil {
		return err
	}
	var ms []rows.RowMutation
	for _, key := range keys {
		ms = append(ms, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.DeleteColumn(rows.Data, schema.L0Qualifier(info.ID))}})
	}
	for day := range daysOf(info) {
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(day), Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, schema.ReceiptQualifier(info.ID))}})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("take the L0 pack %s out of the index: %w", info.ID, err)
	}
	return nil
}

// markDue is the time of the garbage entry that marks an object whose deletion is
// under way. The entry is due at once, so the next sweep finishes what a crash
// left; and uploads find it by the name alone.
const markDue = 0

func (s *Store) unmark(ctx context.Context, object string) error {
	return s.drop(ctx, schema.GarbageKey(markDue, object))
}

// unmarked fails if the deletion of an object is under way.
func (s *Store) unmarked(ctx context.Context, object string) error {
	marked := false
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{rows.Single(schema.GarbageKey(markDue, object))}, rows.Filter{Families: []rows.Family{rows.System}, Latest: true},
		func(rows.Row) bool { marked = true; return false })
	if err != nil {
		return fmt.Errorf("look for the mark of a deletion: %w", err)
	}
	if marked {
		return errBeingDeleted
	}
	return nil
}

// l0Needed reports whether an L0 pack has a receipt or a cell in a catalog. Days
// that have cells and no receipt get one, so that they are compacted: otherwise
// the cells would name the pack for ever.
func (s *Store) l0Needed(ctx context.Context, obj objects.Object, info pack.Info) (bool, error) {
	consumed, err := s.Consumed(ctx, info)
	if err != nil || !consumed {
		return true, err
	}
	keys, err := s.catalogsWith(ctx, info)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	days := map[string]bool{}
	for _, key := range keys {
		_, day, _ := schema.ParseCatalogKey(key)
		days[schema.WorkKey(day)] = true
	}
	receipts := slices.DeleteFunc(s.receipts(uploadOf(obj, info), obj), func(m rows.RowMutation) bool { return !days[m.Key] })
	if err := s.mutateRows(ctx, receipts); err != nil {
		return false, fmt.Errorf("write receipts: %w", err)
	}
	s.opts.Logger.Warn("an L0 pack was in catalogs and in no work row, so that nothing would have compacted it; it is in work rows now",
		"object", obj.Name, "ingester", info.Source, "days", len(days))
	return true, nil
}

// catalogsWith returns the keys of the catalog rows that have a cell of an L0
// pack.
func (s *Store) catalogsWith(ctx context.Context, info pack.Info) ([]string, error) {
	keys := make([]rows.Range, 0, len(info.Sections))
	for i := range info.Sections {
		keys = append(keys, rows.Single(schema.CatalogKey(info.Sections[i].Tenant, info.Sections[i].Day)))
	}
	filter := rows.Filter{Families: []rows.Family{rows.Data}, Qualifiers: []string{schema.L0Qualifier(info.ID)}, MinTime: max(s.oldest(), 0), Latest: true}
	var out []string
	for batch := range slices.Chunk(keys, rows.MaxRanges) {
		err := s.opts.Rows.ReadRows(ctx, batch, filter, func(r rows.Row) bool {
			out = append(out, r.Key)
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read the cells of L0 pack %s: %w", info.ID, err)
		}
	}
	return out, nil
}
