package index

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// Deletion is a deletion of series with its compiled matchers.
type Deletion struct {
	schema.Tombstone
	matches func(labels.Labels) bool
}

// Deletions are the deletions of series of a tenant.
type Deletions []Deletion

// decodeDeletions decodes the deletions in the row of a tenant.
func decodeDeletions(r rows.Row) (Deletions, error) {
	var out Deletions
	for _, cell := range r.Cells {
		if cell.Family != rows.System || !strings.HasPrefix(cell.Qualifier, schema.TombstonePrefix) &&
			!strings.HasPrefix(cell.Qualifier, schema.PendingPrefix) {
			continue
		}
		t, err := schema.DecodeTombstone(cell.Value)
		if err != nil {
			return nil, fmt.Errorf("deletion %q: %w", cell.Qualifier, err)
		}
		matches, err := t.Compile()
		if err != nil {
			return nil, fmt.Errorf("deletion %d: %w", t.Number, err)
		}
		out = append(out, Deletion{Tombstone: t, matches: matches})
	}
	return out, nil
}

// After returns the intervals of a series that active deletions above a number delete.
func (d Deletions) After(number uint64, ls labels.Labels) []series.Interval {
	var out []series.Interval
	for i := range d {
		one := &d[i]
		if one.Number > number && one.State == schema.Active && one.matches(ls) {
			out = append(out, series.Interval{Min: one.MinTime, Max: one.MaxTime})
		}
	}
	return out
}

// Last returns the highest number of a deletion. ok is false if a deletion is pending:
// then the number must not be used.
func (d Deletions) Last() (number uint64, ok bool) {
	ok = true
	for i := range d {
		number = max(number, d[i].Number)
		ok = ok && d[i].State == schema.Active
	}
	return number, ok
}

// Above reports whether there is an active deletion above a number.
func (d Deletions) Above(number uint64) bool {
	for i := range d {
		if d[i].State == schema.Active && d[i].Number > number {
			return true
		}
	}
	return false
}

// Tombstones gives access to the deletions of series in the rows of tenants. Reads of a
// catalog return them too.
type Tombstones struct{ table }

// Reserve reserves the next number for a deletion of a tenant and writes the deletion as
// pending. deletion returns the deletion for a number; it may be called several times.
func (s *Tombstones) Reserve(ctx context.Context, t tenant.ID, deletion func(number uint64) schema.Tombstone) (schema.Tombstone, error) {
	for range 10 {
		raw, number, err := s.lastNumber(ctx, t)
		if err != nil {
			return schema.Tombstone{}, err
		}
		d := deletion(number + 1)
		condition := rows.Absent(rows.System, schema.LastTombstoneQualifier)
		if raw != nil {
			condition = rows.ValueIs(rows.System, schema.LastTombstoneQualifier, raw)
		}
		held, err := s.rows.CheckAndMutate(ctx, schema.TenantKey(t), condition, []rows.Mutation{
			rows.Set(rows.System, schema.LastTombstoneQualifier, 0, binary.BigEndian.AppendUint64(nil, d.Number)),
			rows.Set(rows.System, schema.PendingQualifier(d.Number), 0, d.Encode()),
		}, nil)
		if err != nil {
			return d, fmt.Errorf("delete series: reserve a number: %w", err)
		}
		if held {
			return d, nil
		}
	}
	return schema.Tombstone{}, errors.New("delete series: too many concurrent deletions of the tenant; repeat the request")
}

func (s *Tombstones) lastNumber(ctx context.Context, t tenant.ID) (raw []byte, number uint64, err error) {
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.TenantKey(t))}, system(schema.LastTombstoneQualifier), func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, schema.LastTombstoneQualifier); ok && len(c.Value) == 8 {
			raw, number = c.Value, binary.BigEndian.Uint64(c.Value)
		}
		return true
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the last deletion: %w", err)
	}
	return raw, number, nil
}

// Activate makes a pending deletion active. It returns false if the deletion is not
// pending any more.
func (s *Tombstones) Activate(ctx context.Context, t tenant.ID, d schema.Tombstone) (bool, error) {
	d.State = schema.Active
	held, err := s.rows.CheckAndMutate(ctx, schema.TenantKey(t), rows.Present(rows.System, schema.PendingQualifier(d.Number)), []rows.Mutation{
		rows.DeleteColumn(rows.System, schema.PendingQualifier(d.Number)),
		rows.Set(rows.System, schema.TombstoneQualifier(d.Number), 0, d.Encode()),
	}, nil)
	if err != nil {
		return false, fmt.Errorf("activate deletion %d: %w", d.Number, err)
	}
	return held, nil
}

// Cancel deletes pending deletions.
func (s *Tombstones) Cancel(ctx context.Context, t tenant.ID, numbers []uint64) error {
	if len(numbers) == 0 {
		return nil
	}
	m := rows.RowMutation{Key: schema.TenantKey(t)}
	for _, n := range numbers {
		m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, schema.PendingQualifier(n)))
	}
	if err := s.rows.Mutate(ctx, m); err != nil {
		return fmt.Errorf("cancel deletions of tenant %s: %w", t, err)
	}
	return nil
}

// Forget deletes an active deletion.
func (s *Tombstones) Forget(ctx context.Context, t tenant.ID, number uint64) error {
	err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.TenantKey(t),
		Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, schema.TombstoneQualifier(number))}})
	if err != nil {
		return fmt.Errorf("forget deletion %d of tenant %s: %w", number, t, err)
	}
	return nil
}

// Active calls visit for every active deletion of the tenants, in the order of tenant and
// number.
func (s *Tombstones) Active(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
	const atOnce = 1000
	for len(tenants) > 0 {
		n := min(atOnce, len(tenants))
		var ranges []rows.Range
		byKey := map[string]tenant.ID{}
		for _, t := range tenants[:n] {
			ranges = append(ranges, rows.Single(schema.TenantKey(t)))
			byKey[schema.TenantKey(t)] = t
		}
		var broken error
		err := s.rows.ReadRows(ctx, ranges, system(), func(r rows.Row) bool {
			broken = eachActive(r, func(ts schema.Tombstone) error { return visit(byKey[r.Key], ts) })
			return broken == nil
		})
		if err = errors.Join(err, broken); err != nil {
			return fmt.Errorf("read deletions of series: %w", err)
		}
		tenants = tenants[n:]
	}
	return nil
}

func eachActive(r rows.Row, visit func(schema.Tombstone) error) error {
	for _, c := range r.Cells {
		if !strings.HasPrefix(c.Qualifier, schema.TombstonePrefix) || c.Qualifier == schema.LastTombstoneQualifier {
			continue
		}
		ts, err := schema.DecodeTombstone(c.Value)
		if err != nil {
			return fmt.Errorf("row %q: %w", r.Key, err)
		}
		if ts.State != schema.Active {
			continue
		}
		if err := visit(ts); err != nil {
			return err
		}
	}
	return nil
}
