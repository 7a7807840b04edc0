package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// DayWork is what there is to compact of a UTC day, of all tenants.
type DayWork struct {
	Day      int64
	Intents  []IntentOf
	Receipts []ReceiptOf
	Rewrites []tenant.ID // tenants of which deleted series are to be taken out
	Asides   []AsideOf   // series that no pack could hold
}

// Idle reports whether there is nothing to compact or to wait for. What was set
// aside is neither.
func (d *DayWork) Idle() bool { return len(d.Intents)+len(d.Receipts)+len(d.Rewrites) == 0 }

// IntentOf is an ingester's word that it owes samples of a window.
type IntentOf struct {
	Ingester string
	Window   int
	schema.Intent
}

// ReceiptOf is an uploaded pack that has samples of the day not compacted yet.
type ReceiptOf struct {
	ID ulid.ULID
	schema.Receipt
	value []byte // of its cell
}

// Work lists the days that have something to compact or to wait for, ascending.
func (s *Store) Work(ctx context.Context) ([]DayWork, error) {
	var out []DayWork
	err := s.eachWork(ctx, func(d *DayWork) error { out = append(out, *d); return nil })
	return out, err
}

func (s *Store) eachWork(ctx context.Context, fn func(*DayWork) error) error {
	start, end := schema.WorkRange()
	var broken error
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{Families: []rows.Family{rows.System}, Latest: true}, func(r rows.Row) bool {
		if r.Key == schema.WorkKey(-1) {
			return true // versions before 2026-12 wrote intents of days that no key can name
		}
		d, err := decodeWork(r)
		if err == nil {
			err = fn(&d)
		}
		broken = err
		return err == nil
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return fmt.Errorf("read work rows: %w", err)
	}
	return nil
}

func decodeWork(r rows.Row) (DayWork, error) {
	day, ok := schema.ParseWorkKey(r.Key)
	if !ok {
		return DayWork{}, fmt.Errorf("row %q is not a work row", r.Key)
	}
	d := DayWork{Day: day}
	for _, c := range r.Cells {
		switch {
		case strings.HasPrefix(c.Qualifier, schema.IntentPrefix):
			window, ingester, ok := schema.ParseIntentQualifier(c.Qualifier)
			if !ok {
				return d, fmt.Errorf("work row of day %d has the cell %q", day, c.Qualifier)
			}
			in, err := schema.DecodeIntent(c.Value)
			if err != nil {
				return d, fmt.Errorf("intent of %s for window %d of day %d: %w", ingester, window, day, err)
			}
			d.Intents = append(d.Intents, IntentOf{Ingester: ingester, Window: window, Intent: in})
		case strings.HasPrefix(c.Qualifier, schema.ReceiptPrefix):
			id, ok := schema.ParseReceiptQualifier(c.Qualifier)
			if !ok {
				return d, fmt.Errorf("work row of day %d has the cell %q", day, c.Qualifier)
			}
			rc, err := schema.DecodeReceipt(c.Value)
			if err != nil {
				return d, fmt.Errorf("receipt %s of day %d: %w", id, day, err)
			}
			d.Receipts = append(d.Receipts, ReceiptOf{ID: id, Receipt: rc, value: c.Value})
		case strings.HasPrefix(c.Qualifier, schema.RewritePrefix):
			d.Rewrites = append(d.Rewrites, tenant.ID(c.Qualifier[len(schema.RewritePrefix):]))
		case strings.HasPrefix(c.Qualifier, schema.AsidePrefix):
			window, ingester, t, ok := schema.ParseAsideQualifier(c.Qualifier)
			if !ok {
				return d, fmt.Errorf("work row of day %d has the cell %q", day, c.Qualifier)
			}
			a, err := schema.DecodeAside(c.Value)
			if err != nil {
				return d, fmt.Errorf("set aside by %s for window %d of day %d: %w", ingester, window, day, err)
			}
			d.Asides = append(d.Asides, AsideOf{Ingester: ingester, Window: Window{day, window}, Tenant: t, Aside: a})
		}
	}
	return d, nil
}

// Discharge takes the receipt of a pack out of a day's work once no catalog of
// the day names the pack any more. When it was the pack's last day, the object
// is due to be deleted later. A receipt that was rewritten since it was read
// stays: the upload was repeated, and catalogs may name the pack again.
func (s *Store) Discharge(ctx context.Context, day int64, r ReceiptOf) error {
	if err := s.dueObject(ctx, r.Object, garbageL0, s.nowMillis()+l0Delay.Milliseconds()); err != nil {
		return err
	}
	q := schema.ReceiptQualifier(r.ID)
	_, err := s.opts.Rows.CheckAndMutate(ctx, schema.WorkKey(day), rows.ValueIs(rows.System, q, r.value), []rows.Mutation{rows.DeleteColumn(rows.System, q)}, nil)
	if err != nil {
		return fmt.Errorf("take receipt %s out of day %d: %w", r.ID, day, err)
	}
	return nil
}

// AcceptLoss takes back all intents of a day and the records of what lost
// ingesters had set aside: the operator accepts that samples which only lost
// ingesters had are not there. It returns how many there were.
func (s *Store) AcceptLoss(ctx context.Context, day int64) (int, error) {
	n := 0
	m := rows.RowMutation{Key: schema.WorkKey(day)}
	err := s.eachWork(ctx, func(d *DayWork) error {
		if d.Day == day {
			for _, in := range d.Intents {
				m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, schema.IntentQualifier(in.Window, in.Ingester)))
				n++
			}
			for i := range d.Asides {
				if a := &d.Asides[i]; IsLost(a.Ingester) {
					m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, a.qualifier()))
					n++
				}
			}
		}
		return nil
	})
	if err != nil || n == 0 {
		return n, err
	}
	if err := s.opts.Rows.Mutate(ctx, m); err != nil {
		return 0, fmt.Errorf("take back the intents of day %d: %w", day, err)
	}
	return n, nil
}
