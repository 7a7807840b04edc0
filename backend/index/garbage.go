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

// Garbage is the garbage queue: what is to be looked at, at a time, and deleted if
// nothing refers to it.
type Garbage struct{ table }

// Kinds of garbage.
const (
	GarbagePack  = "pack"  // a compacted pack, unless the day's manifest names it
	GarbageIndex = "index" // a generation's rows, unless it is the day's manifest's
	GarbageL0    = "l0"    // an L0 pack that was consumed, unless a receipt or a catalog cell is left
	GarbageAdopt = "adopt" // an L0 pack whose upload did not end: it is entered into the index
)

// PackGarbage is the entry of a compacted pack of a generation.
func PackGarbage(object string, d TenantDay, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: GarbagePack, Name: object, Tenant: d.Tenant, Day: d.Day, Version: v}
}

// IndexGarbage is the entry of the rows of a generation.
func IndexGarbage(d TenantDay, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: GarbageIndex, Name: fmt.Sprintf("index/%s/%d/%s", d.Tenant, d.Day, v), Tenant: d.Tenant, Day: d.Day,
		Version: v}
}

// Enter enters something with the time at which it is due, in Unix milliseconds.
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

// EnterGeneration enters the rows and the packs of a tenant's generation.
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

// Drop takes the entry of a name and time out.
func (s *Garbage) Drop(ctx context.Context, at int64, name string) error {
	return s.drop(ctx, schema.GarbageKey(at, name))
}

func (s *Garbage) drop(ctx context.Context, key string) error {
	if err := s.rows.Mutate(ctx, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.DeleteRow()}}); err != nil {
		return fmt.Errorf("take %q out of the garbage queue: %w", key, err)
	}
	return nil
}

// Due is an entry that is due.
type Due struct {
	schema.Garbage
	key string
}

// Done takes an entry out that was worked off.
func (s *Garbage) Done(ctx context.Context, d Due) error { return s.drop(ctx, d.key) }

// Due lists entries that are due by the clock, at most so many, the oldest first.
func (s *Garbage) Due(ctx context.Context, most int) ([]Due, error) {
	f := system()
	f.Rows = most
	var list []Due
	err := s.each(ctx, s.nowMillis(), f, func(d Due) { list = append(list, d) })
	return list, err
}

// Each calls visit for all entries, due or not.
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

// markDue is the time of the garbage entry that marks an object whose deletion is
// under way. The entry is due at once, so the next sweep finishes what a crash
// left; and uploads find it by the name alone.
const markDue = 0

// Mark says that the deletion of an L0 pack is under way.
func (s *Garbage) Mark(ctx context.Context, object string) error {
	return s.Enter(ctx, markDue, schema.Garbage{Kind: GarbageL0, Name: object})
}

// Unmark takes the mark back.
func (s *Garbage) Unmark(ctx context.Context, object string) error {
	return s.Drop(ctx, markDue, object)
}

// Marked reports whether the deletion of an object is under way.
func (s *Garbage) Marked(ctx context.Context, object string) (bool, error) {
	marked := false
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.GarbageKey(markDue, object))}, system(),
		func(rows.Row) bool { marked = true; return false })
	if err != nil {
		return false, fmt.Errorf("look for the mark of a deletion: %w", err)
	}
	return marked, nil
}
