package index

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

// IntentOf records that an ingester has samples of a window that are not uploaded.
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

// Work is the rows with what there is to compact, and what keeps it from that:
// intents, receipts, what ingesters set aside, and losses.
type Work struct{ table }

// Days lists the days that have something to compact or to wait for, ascending.
func (s *Work) Days(ctx context.Context) ([]DayWork, error) {
	var out []DayWork
	err := s.Each(ctx, func(d *DayWork) error { out = append(out, *d); return nil })
	return out, err
}

// Each calls fn for the days that have something to compact or to wait for,
// ascending.
func (s *Work) Each(ctx context.Context, fn func(*DayWork) error) error {
	start, end := schema.WorkRange()
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, system(), func(r rows.Row) bool {
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

// TakeReceipt takes a receipt out of a day's work unless it was rewritten since it
// was read.
func (s *Work) TakeReceipt(ctx context.Context, day int64, r ReceiptOf) error {
	q := schema.ReceiptQualifier(r.ID)
	_, err := s.rows.CheckAndMutate(ctx, schema.WorkKey(day), rows.ValueIs(rows.System, q, r.value),
		[]rows.Mutation{rows.DeleteColumn(rows.System, q)}, nil)
	if err != nil {
		return fmt.Errorf("take receipt %s out of day %d: %w", r.ID, day, err)
	}
	return nil
}

// AcceptLoss takes back all intents of a day and the records of what lost
// ingesters had set aside: the operator accepts that samples which only lost
// ingesters had are not there. It returns how many there were.
func (s *Work) AcceptLoss(ctx context.Context, day int64) (int, error) {
	n := 0
	m := rows.RowMutation{Key: schema.WorkKey(day)}
	err := s.Each(ctx, func(d *DayWork) error {
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
	if err := s.rows.Mutate(ctx, m); err != nil {
		return 0, fmt.Errorf("take back the intents of day %d: %w", day, err)
	}
	return n, nil
}

// Intend says in the work rows that an ingester has samples of the windows that
// no receipt stands for yet.
func (s *Work) Intend(ctx context.Context, ingester string, windows map[Window]schema.Intent) error {
	byDay := map[int64][]rows.Mutation{}
	for w, in := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.Set(rows.System, schema.IntentQualifier(w.Number, ingester), 0, in.Encode()))
	}
	return s.mutateWork(ctx, byDay, "write intents")
}

// Settle deletes an ingester's intents of windows whose samples are all uploaded.
func (s *Work) Settle(ctx context.Context, ingester string, windows []Window) error {
	byDay := map[int64][]rows.Mutation{}
	for _, w := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.DeleteColumn(rows.System, schema.IntentQualifier(w.Number, ingester)))
	}
	return s.mutateWork(ctx, byDay, "take intents back")
}

func (s *Work) mutateWork(ctx context.Context, byDay map[int64][]rows.Mutation, what string) error {
	var ms []rows.RowMutation
	for day, m := range byDay {
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(day), Mutations: m})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Intents lists the windows of which an ingester has recorded pending uploads.
func (s *Work) Intents(ctx context.Context, ingester string) ([]Window, error) {
	var out []Window
	err := s.Each(ctx, func(d *DayWork) error {
		for _, in := range d.Intents {
			if in.Ingester == ingester {
				out = append(out, Window{Day: d.Day, Number: in.Window})
			}
		}
		return nil
	})
	return out, err
}

// HasReceipt reports whether the work of one of the days has a receipt of a pack.
func (s *Work) HasReceipt(ctx context.Context, id ulid.ULID, days []int64) (bool, error) {
	keys := make([]rows.Range, 0, len(days))
	for _, day := range days {
		keys = append(keys, rows.Single(schema.WorkKey(day)))
	}
	left := 0
	for len(keys) > 0 && left == 0 {
		n := min(len(keys), rows.MaxRanges)
		err := s.rows.ReadRows(ctx, keys[:n], system(schema.ReceiptQualifier(id)),
			func(rows.Row) bool { left++; return true })
		if err != nil {
			return false, fmt.Errorf("read receipts: %w", err)
		}
		keys = keys[n:]
	}
	return left > 0, nil
}

// DayReceipt is the receipt of a pack for one of its days.
type DayReceipt struct {
	Day     int64
	Receipt schema.Receipt
	Settled []int // windows of the day whose intents of the ingester go with it
}

// AddReceipts writes the receipts of a pack, each in one mutation with the end of
// the intents that it settles.
func (s *Work) AddReceipts(ctx context.Context, id ulid.ULID, list []DayReceipt) error {
	ms := make([]rows.RowMutation, 0, len(list))
	for i := range list {
		r := &list[i]
		m := []rows.Mutation{rows.Set(rows.System, schema.ReceiptQualifier(id), 0, r.Receipt.Encode())}
		for _, w := range r.Settled {
			m = append(m, rows.DeleteColumn(rows.System, schema.IntentQualifier(w, r.Receipt.Ingester)))
		}
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(r.Day), Mutations: m})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("write receipts: %w", err)
	}
	return nil
}

// AskRewrites asks for the compaction of a tenant's days, since series in them were
// deleted.
func (s *Work) AskRewrites(ctx context.Context, t tenant.ID, days []int64) error {
	byDay := map[int64][]rows.Mutation{}
	for _, day := range days {
		byDay[day] = []rows.Mutation{rows.Set(rows.System, schema.RewriteQualifier(t), 0, []byte{1})}
	}
	return s.mutateWork(ctx, byDay, "ask for compaction of deleted series")
}

// Rewritten takes a tenant's request for a rewrite out of a day's work.
func (s *Work) Rewritten(ctx context.Context, t tenant.ID, day int64) error {
	return s.mutateWork(ctx, map[int64][]rows.Mutation{day: {rows.DeleteColumn(rows.System, schema.RewriteQualifier(t))}},
		"take a rewrite out of the work")
}
