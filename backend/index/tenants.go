package index

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Tenants is the rows of tenants as a whole: which there are, the retention that
// their cells are stamped for, and what was erased of deleted ones.
type Tenants struct{ table }

// List lists the tenants that the index has anything of, ascending.
func (s *Tenants) List(ctx context.Context) ([]tenant.ID, error) {
	var out []tenant.ID
	for start := schema.FirstTenant; ; {
		key := ""
		err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: schema.EndOfTenants}}, rows.Filter{Rows: 1},
			func(r rows.Row) bool { key = r.Key; return false })
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		if key == "" {
			return out, nil
		}
		t, ok := schema.TenantOf(key)
		if !ok {
			return nil, fmt.Errorf("list tenants: row %q is of no tenant", key)
		}
		out = append(out, t)
		start = rows.PrefixEnd(schema.TenantPrefix(t))
	}
}

// keptQualifier is the cell of a tenant's row with the retention, in
// milliseconds, that all its cells are stamped for at least.
const keptQualifier = "kept"

// Kept is the retention that all cells of a tenant are stamped for at least, if that
// is known.
func (s *Tenants) Kept(ctx context.Context, t tenant.ID) (keep time.Duration, known bool, err error) {
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.TenantKey(t))}, system(keptQualifier), func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, keptQualifier); ok && len(c.Value) == 8 {
			keep, known = time.Duration(binary.BigEndian.Uint64(c.Value))*time.Millisecond, true
		}
		return true
	})
	if err != nil {
		return 0, false, fmt.Errorf("read retention of tenant %s: %w", t, err)
	}
	return keep, known, nil
}

// SetKept writes what Kept returns.
func (s *Tenants) SetKept(ctx context.Context, t tenant.ID, keep time.Duration) error {
	err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.TenantKey(t),
		Mutations: []rows.Mutation{rows.Set(rows.System, keptQualifier, 0, binary.BigEndian.AppendUint64(nil, uint64(keep.Milliseconds())))}})
	if err != nil {
		return fmt.Errorf("write retention of tenant %s: %w", t, err)
	}
	return nil
}

// Erase deletes all rows of a tenant. It reports whether there were any.
func (s *Tenants) Erase(ctx context.Context, t tenant.ID) (found bool, err error) {
	prefix := schema.TenantPrefix(t)
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Prefix(prefix)}, rows.Filter{Rows: 1}, func(rows.Row) bool { found = true; return false })
	if err == nil && found {
		err = s.rows.DeletePrefix(ctx, prefix)
	}
	if err != nil {
		return found, fmt.Errorf("erase rows of tenant %s: %w", t, err)
	}
	return found, nil
}

// Erased is what was erased of a deleted tenant.
type Erased struct {
	Objects int   `json:"objects"` // compacted packs
	Bytes   int64 `json:"bytes"`   // of them
	Rows    bool  `json:"rows"`    // whether there were rows of the index
	Last    int64 `json:"lastMs"`  // when something was found last, Unix milliseconds
}

// erasureQualifier is the one cell of an erasure's row.
const erasureQualifier = "e"

// Erasure is all that was erased of a deleted tenant so far; zero when nothing
// was.
func (s *Tenants) Erasure(ctx context.Context, t tenant.ID) (Erased, error) {
	var e Erased
	var bad error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.ErasureKey(t))}, system(), func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, erasureQualifier); ok {
			bad = json.Unmarshal(c.Value, &e)
		}
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return e, fmt.Errorf("read what was erased of tenant %s: %w", t, err)
	}
	return e, nil
}

// SetErasure writes what Erasure returns.
func (s *Tenants) SetErasure(ctx context.Context, t tenant.ID, e Erased) error {
	value, err := json.Marshal(e)
	if err == nil {
		err = s.rows.Mutate(ctx, rows.RowMutation{Key: schema.ErasureKey(t),
			Mutations: []rows.Mutation{rows.Set(rows.System, erasureQualifier, 0, value)}})
	}
	if err != nil {
		return fmt.Errorf("write what was erased of tenant %s: %w", t, err)
	}
	return nil
}
