package index

import (
	"context"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Leases gives access to the rows of leases.
type Leases struct{ table }

// Take acquires or renews a lease and reports whether the holder has it. Leases only
// avoid duplicate work: two concurrent holders do no harm.
func (s *Leases) Take(ctx context.Context, name, holder string, life time.Duration) (bool, error) {
	key := schema.LeaseKey(name)
	now := s.nowMillis()
	var current *schema.Lease
	var raw []byte
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(key)}, system(), func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, schema.LeaseQualifier); ok {
			l, err := schema.DecodeLease(c.Value)
			if broken = err; err == nil {
				current, raw = &l, c.Value
			}
		}
		return true
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return false, fmt.Errorf("read lease %s: %w", name, err)
	}
	if current != nil && current.Holder != holder && current.Until > now {
		return false, nil
	}
	condition := rows.Absent(rows.System, schema.LeaseQualifier)
	if current != nil {
		condition = rows.ValueIs(rows.System, schema.LeaseQualifier, raw)
	}
	next := schema.Lease{Holder: holder, Until: now + life.Milliseconds()}
	held, err := s.rows.CheckAndMutate(ctx, key, condition,
		[]rows.Mutation{rows.Set(rows.System, schema.LeaseQualifier, 0, next.Encode())}, nil)
	if err != nil {
		return false, fmt.Errorf("acquire lease %s: %w", name, err)
	}
	return held, nil
}
