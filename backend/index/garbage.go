package index

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Garbage gives access to the garbage queue: names of objects and generations, each with
// the time when a sweep checks whether anything refers to it, and deletes it if nothing
// does.
type Garbage struct{ table }

// Kinds of garbage.
const (
	GarbagePack  = "pack"  // a compacted pack; deleted unless the day's manifest names it
	GarbageIndex = "index" // the rows of a generation; deleted unless it is the published one
	GarbageL0    = "l0"    // a consumed L0 pack; deleted unless a receipt or a catalog cell is left
	GarbageAdopt = "adopt" // an L0 pack whose upload was interrupted; entered into the index
)

// PackGarbage returns the entry for a compacted pack of a generation.
func PackGarbage(object string, d TenantDay, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: GarbagePack, Name: object, Tenant: d.Tenant, Day: d.Day, Version: v}
}

// IndexGarbage returns the entry for the rows of a generation.
func IndexGarbage(d TenantDay, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: GarbageIndex, Name: fmt.Sprintf("index/%s/%d/%s", d.Tenant, d.Day, v), Tenant: d.Tenant, Day: d.Day,
		Version: v}
}

// Enter adds an entry that is due at a time (Unix milliseconds).
func (s *Garbage) Enter(ctx context.Context, at int64, e schema.Garbage) error {
	if err := s.rows.Mutate(ctx, dueMutation(at, e)); err != nil {
		return fmt.Errorf("enter %s into the garbage queue: %w", e.Name, err)
	}
	return nil
}

func dueMutation(at int64, e schema.Garbage) rows.RowMutation {
	return rows.RowMutation{Key: schema.GarbageKey(at, e.Name),
		Mutations: []rows.Mutation{rows.Set(rows.System, schema.GarbageQualifier, 0, e.Encode())}}
}

// EnterGeneration adds entries for the rows and the packs of a tenant's generation, due
// at a time (Unix milliseconds).
func (s *Garbage) EnterGeneration(ctx context.Context, at int64, t tenant.ID, m *schema.Manifest) error {
	d := TenantDay{t, m.Day}
	ms := []rows.RowMutation{dueMutation(at, IndexGarbage(d, m.Version))}
	for i := range m.Packs {
		ms = append(ms, dueMutation(at, PackGarbage(m.Packs[i].Object, d, m.Version)))
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("enter generation %s into the garbage queue: %w", m.Version, err)
	}
	return nil
}

// Drop removes the entry with the given due time and name.
func (s *Garbage) Drop(ctx context.Context, at int64, name string) error {
	return s.drop(ctx, schema.GarbageKey(at, name))
}

func (s *Garbage) drop(ctx context.Context, key string) error {
	if err := s.rows.Mutate(ctx, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.DeleteRow()}}); err != nil {
		return fmt.Errorf("remove %q from the garbage queue: %w", key, err)
	}
	return nil
}

// Due is an entry that is due.
type Due struct {
	schema.Garbage
	key string
}

// Done removes a processed entry.
func (s *Garbage) Done(ctx context.Context, d Due) error { return s.drop(ctx, d.key) }

// Due returns at most the given number of due entries, the oldest first.
func (s *Garbage) Due(ctx context.Context, most int) ([]Due, error) {
	f := system()
	f.Rows = most
	var list []Due
	err := s.each(ctx, s.nowMillis(), f, func(d Due) { list = append(list, d) })
	return list, err
}

// Each calls visit for all entries, whether due or not.
func (s *Garbage) Each(ctx context.Context, visit func(schema.Garbage)) error {
	return s.each(ctx, math.MaxInt64-1, system(), func(d Due) { visit(d.Garbage) })
}

func (s *Garbage) each(ctx context.Context, until int64, f rows.Filter, visit func(Due)) error {
	start, end := schema.GarbageRange(until)
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, f, func(r rows.Row) bool {
		c, ok := r.Cell(rows.System, schema.GarbageQualifier)
		if !ok {
			return true
		}
		e, err := schema.DecodeGarbage(c.Value)
		if err != nil {
			broken = fmt.Errorf("garbage entry %q: %w", r.Key, err)
			return false
		}
		visit(Due{Garbage: e, key: r.Key})
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return fmt.Errorf("read garbage queue: %w", err)
	}
	return nil
}

// markDue is the due time of the garbage entry that marks an object as being deleted. The
// entry is due at once, so that the next sweep finishes a deletion interrupted by a
// crash, and uploads can find it by the name of the object alone.
const markDue = 0

// Mark marks an L0 pack as being deleted.
func (s *Garbage) Mark(ctx context.Context, object string) error {
	return s.Enter(ctx, markDue, schema.Garbage{Kind: GarbageL0, Name: object})
}

// Unmark removes the mark.
func (s *Garbage) Unmark(ctx context.Context, object string) error {
	return s.Drop(ctx, markDue, object)
}

// Marked reports whether an object is marked as being deleted.
func (s *Garbage) Marked(ctx context.Context, object string) (bool, error) {
	marked := false
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.GarbageKey(markDue, object))}, system(),
		func(rows.Row) bool { marked = true; return false })
	if err != nil {
		return false, fmt.Errorf("check whether the object is being deleted: %w", err)
	}
	return marked, nil
}
