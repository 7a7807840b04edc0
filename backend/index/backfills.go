package index

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// ErrBackfillRuns is returned for a new backfill of a group that has an unfinished one.
var ErrBackfillRuns = errors.New("a backfill of the group is running")

// ErrBackfillChanged is returned if another process changed or deleted the backfill.
var ErrBackfillChanged = errors.New("the backfill was changed or deleted")

// Backfill is a backfill of a group of a tenant.
type Backfill struct {
	Tenant           tenant.ID
	Namespace, Group string
	schema.Backfill
}

// Backfills returns the backfills of tenants, sorted by tenant, namespace and group. If some cannot be decoded, it returns the
// others together with an error.
func (s *Rules) Backfills(ctx context.Context, tenants ...tenant.ID) ([]Backfill, error) {
	var out []Backfill
	var broken error
	f := rows.Filter{Families: []rows.Family{rows.System}, QualifierPrefix: schema.BackfillPrefix, Latest: true}
	for part := range slices.Chunk(tenants, versionsInRead) {
		ranges := make([]rows.Range, 0, len(part))
		for _, t := range part {
			ranges = append(ranges, rows.Single(schema.RulesKey(t)))
		}
		err := s.rows.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
			t, _ := schema.TenantOf(r.Key)
			for _, c := range r.Cells {
				namespace, group, ok := schema.ParseBackfillQualifier(c.Qualifier)
				if !ok {
					continue
				}
				b, err := schema.DecodeBackfill(c.Value)
				if err != nil {
					broken = errors.Join(broken, fmt.Errorf("tenant %s: backfill of group %q of namespace %q: %w", t, group, namespace, err))
					continue
				}
				out = append(out, Backfill{t, namespace, group, b})
			}
			return true
		})
		if err != nil {
			broken = errors.Join(broken, err)
		}
	}
	if broken != nil {
		broken = fmt.Errorf("read backfills: %w", broken)
	}
	return out, broken
}

// Backfill returns the backfill of a group; ok is false if it has none.
func (s *Rules) Backfill(ctx context.Context, t tenant.ID, namespace, group string) (b Backfill, ok bool, err error) {
	q := schema.BackfillQualifier(namespace, group)
	b.Tenant, b.Namespace, b.Group = t, namespace, group
	var bad error
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.RulesKey(t))}, system(q), func(r rows.Row) bool {
		if c, found := r.Cell(rows.System, q); found {
			ok = true
			b.Backfill, bad = schema.DecodeBackfill(c.Value)
		}
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return b, false, fmt.Errorf("read a backfill of tenant %s: %w", t, err)
	}
	return b, ok, nil
}

// StartBackfill writes a new backfill of a group, which replaces a finished one. It returns
// ErrBackfillRuns if the group has an unfinished backfill.
func (s *Rules) StartBackfill(ctx context.Context, b *Backfill) error {
	b.Created, b.Updated = s.nowMillis(), s.nowMillis()
	old, ok, err := s.Backfill(ctx, b.Tenant, b.Namespace, b.Group)
	switch {
	case err != nil:
		return err
	case ok && old.State == schema.BackfillRunning:
		return ErrBackfillRuns
	case ok:
		b.Created = max(b.Created, old.Created+1) // Created identifies the backfill, so it must increase
	}
	var previous *schema.Backfill
	if ok {
		previous = &old.Backfill
	}
	err = s.replaceBackfill(ctx, b, previous)
	if errors.Is(err, ErrBackfillChanged) {
		return ErrBackfillRuns
	}
	return err
}

// UpdateBackfill writes the progress of a backfill. It returns ErrBackfillChanged if the stored
// backfill is not equal to `old`.
func (s *Rules) UpdateBackfill(ctx context.Context, b *Backfill, old schema.Backfill) error {
	b.Updated = s.nowMillis()
	return s.replaceBackfill(ctx, b, &old)
}

func (s *Rules) replaceBackfill(ctx context.Context, b *Backfill, old *schema.Backfill) error {
	t, q := b.Tenant, schema.BackfillQualifier(b.Namespace, b.Group)
	condition := rows.Absent(rows.System, q)
	if old != nil {
		condition = rows.ValueIs(rows.System, q, old.Encode())
	}
	held, err := s.rows.CheckAndMutate(ctx, schema.RulesKey(t), condition, []rows.Mutation{rows.Set(rows.System, q, 0, b.Encode())}, nil)
	if err != nil { // the outcome is unknown
		now, ok, again := s.Backfill(ctx, t, b.Namespace, b.Group)
		if again != nil {
			return fmt.Errorf("write a backfill of tenant %s: %w", t, errors.Join(err, again))
		}
		held = ok && now.Backfill == b.Backfill
	}
	if !held {
		return ErrBackfillChanged
	}
	return nil
}

// DeleteBackfill deletes the backfill of a group, which stops it. It returns false if there is none.
func (s *Rules) DeleteBackfill(ctx context.Context, t tenant.ID, namespace, group string) (bool, error) {
	_, ok, err := s.Backfill(ctx, t, namespace, group)
	if errors.Is(err, schema.ErrCorrupt) || errors.Is(err, schema.ErrNewer) {
		ok, err = true, nil // a backfill that cannot be decoded can be deleted
	}
	if err != nil || !ok {
		return false, err
	}
	err = s.rows.Mutate(ctx, rows.RowMutation{Key: schema.RulesKey(t),
		Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, schema.BackfillQualifier(namespace, group))}})
	if err != nil {
		return false, fmt.Errorf("delete a backfill of tenant %s: %w", t, err)
	}
	return true, nil
}
