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

// Tenants gives access to the rows for whole tenants: the list of tenants, the retention
// for which their cells are stamped, and the totals erased of deleted tenants.
type Tenants struct{ table }

// List returns the tenants with rows in the index, ascending.
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
			return nil, fmt.Errorf("list tenants: key %q does not name a tenant", key)
		}
		out = append(out, t)
		start = rows.PrefixEnd(schema.TenantPrefix(t))
	}
}

// keptQualifier is the qualifier of the cell in a tenant's row with a retention in
// milliseconds. All cells of the tenant are stamped for that retention or a longer
// one.
const keptQualifier = "kept"

// Kept returns the recorded retention of a tenant: all of its cells are stamped for that
// retention or a longer one. `known` is false if none was recorded.
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

// SetKept records the retention that Kept returns.
func (s *Tenants) SetKept(ctx context.Context, t tenant.ID, keep time.Duration) error {
	err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.TenantKey(t),
		Mutations: []rows.Mutation{rows.Set(rows.System, keptQualifier, 0, binary.BigEndian.AppendUint64(nil, uint64(keep.Milliseconds())))}})
	if err != nil {
		return fmt.Errorf("write retention of tenant %s: %w", t, err)
	}
	return nil
}

// Erase deletes all rows of a tenant and reports whether there were any.
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

// Erased counts the erased data of a deleted tenant, of one erasure or of all.
type Erased struct {
	Objects int   `json:"objects"` // number of compacted packs
	Bytes   int64 `json:"bytes"`   // their total size
	Rows    bool  `json:"rows"`    // whether the index had rows
	Last    int64 `json:"lastMs"`  // when data was last found and erased, Unix milliseconds
}

// erasureQualifier is the qualifier of the only cell in an erasure's row.
const erasureQualifier = "e"

// Erasure returns the total erased of a deleted tenant so far, or zero.
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
		return e, fmt.Errorf("read the erasure record of tenant %s: %w", t, err)
	}
	return e, nil
}

// SetErasure writes the record that Erasure returns.
func (s *Tenants) SetErasure(ctx context.Context, t tenant.ID, e Erased) error {
	value, err := json.Marshal(e)
	if err == nil {
		err = s.rows.Mutate(ctx, rows.RowMutation{Key: schema.ErasureKey(t),
			Mutations: []rows.Mutation{rows.Set(rows.System, erasureQualifier, 0, value)}})
	}
	if err != nil {
		return fmt.Errorf("write the erasure record of tenant %s: %w", t, err)
	}
	return nil
}
