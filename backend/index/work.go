package index

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// DayWork is the work row of a UTC day: pending uploads and compactions of all tenants.
type DayWork struct {
	Day      int64
	Intents  []IntentOf
	Receipts []ReceiptOf
	Rewrites []tenant.ID // tenants whose day must be compacted to remove deleted series
	Cleans   []CleanOf   // requests to remove deleted series now, before the day is due
	Asides   []AsideOf   // series that no pack can contain
}

// Idle reports whether the day has nothing to compact and nothing to wait for. Series
// set aside and Cleans, which do not wait for the other work, do not count.
func (d *DayWork) Idle() bool { return len(d.Intents)+len(d.Receipts)+len(d.Rewrites) == 0 }

// IntentOf records that an ingester has samples of a window that are not uploaded.
type IntentOf struct {
	Ingester string
	Window   int
	schema.Intent
}

// CleanOf is a tenant's request to remove deleted series from the packs of a day now.
type CleanOf struct {
	Tenant tenant.ID
	Since  int64 // Unix milliseconds
}

// ReceiptOf is the receipt of an uploaded pack with samples of the day that are not
// compacted yet.
type ReceiptOf struct {
	ID ulid.ULID
	schema.Receipt
	value []byte // of its cell
}

// Work gives access to the work rows: intents, receipts, requests to remove deleted
// series, records of series set aside, and losses.
type Work struct{ table }

// Days returns all work rows, ascending by day.
func (s *Work) Days(ctx context.Context) ([]DayWork, error) {
	var out []DayWork
	err := s.Each(ctx, func(d *DayWork) error { out = append(out, *d); return nil })
	return out, err
}

// Each calls fn for all work rows, ascending by day, until fn returns an error.
func (s *Work) Each(ctx context.Context, fn func(*DayWork) error) error {
	start, end := schema.WorkRange()
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, system(), func(r rows.Row) bool {
		if r.Key == schema.WorkKey(-1) {
			return true // versions before 2026-12 wrote intents for days outside the valid range
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
				return d, fmt.Errorf("work row of day %d has a cell with the invalid qualifier %q", day, c.Qualifier)
			}
			in, err := schema.DecodeIntent(c.Value)
			if err != nil {
				return d, fmt.Errorf("decode the intent (pending upload) of %s for window %d of day %d: %w", ingester, window, day, err)
			}
			d.Intents = append(d.Intents, IntentOf{Ingester: ingester, Window: window, Intent: in})
		case strings.HasPrefix(c.Qualifier, schema.ReceiptPrefix):
			id, ok := schema.ParseReceiptQualifier(c.Qualifier)
			if !ok {
				return d, fmt.Errorf("work row of day %d has a cell with the invalid qualifier %q", day, c.Qualifier)
			}
			rc, err := schema.DecodeReceipt(c.Value)
			if err != nil {
				return d, fmt.Errorf("decode the receipt (upload) %s of day %d: %w", id, day, err)
			}
			d.Receipts = append(d.Receipts, ReceiptOf{ID: id, Receipt: rc, value: c.Value})
		case strings.HasPrefix(c.Qualifier, schema.RewritePrefix):
			d.Rewrites = append(d.Rewrites, tenant.ID(c.Qualifier[len(schema.RewritePrefix):]))
		case strings.HasPrefix(c.Qualifier, schema.CleanPrefix):
			if len(c.Value) != 8 {
				return d, fmt.Errorf("work row of day %d: the value of cell %q has %d bytes, want 8", day, c.Qualifier, len(c.Value))
			}
			d.Cleans = append(d.Cleans, CleanOf{Tenant: tenant.ID(c.Qualifier[len(schema.CleanPrefix):]),
				Since: int64(binary.BigEndian.Uint64(c.Value))})
		case strings.HasPrefix(c.Qualifier, schema.AsidePrefix):
			window, ingester, t, ok := schema.ParseAsideQualifier(c.Qualifier)
			if !ok {
				return d, fmt.Errorf("work row of day %d has a cell with the invalid qualifier %q", day, c.Qualifier)
			}
			a, err := schema.DecodeAside(c.Value)
			if err != nil {
				return d, fmt.Errorf("record of series set aside by %s in window %d of day %d: %w", ingester, window, day, err)
			}
			d.Asides = append(d.Asides, AsideOf{Ingester: ingester, Window: Window{day, window}, Tenant: t, Aside: a})
		}
	}
	return d, nil
}

// RemoveReceipt removes a receipt from a day's work, unless the receipt was rewritten
// since it was read.
func (s *Work) RemoveReceipt(ctx context.Context, day int64, r ReceiptOf) error {
	q := schema.ReceiptQualifier(r.ID)
	_, err := s.rows.CheckAndMutate(ctx, schema.WorkKey(day), rows.ValueIs(rows.System, q, r.value),
		[]rows.Mutation{rows.DeleteColumn(rows.System, q)}, nil)
	if err != nil {
		return fmt.Errorf("remove receipt %s from the work of day %d: %w", r.ID, day, err)
	}
	return nil
}

// AcceptLoss deletes the intents of a day and the records of series set aside that belong
// to lost ingesters: an operator accepts that samples which only those ingesters had are
// lost. Intents of other ingesters stay, because these ingesters will upload their
// samples. It returns the number of intents and records deleted.
func (s *Work) AcceptLoss(ctx context.Context, day int64) (int, error) {
	n := 0
	m := rows.RowMutation{Key: schema.WorkKey(day)}
	err := s.Each(ctx, func(d *DayWork) error {
		if d.Day == day {
			for _, in := range d.Intents {
				if IsLost(in.Ingester) {
					m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, schema.IntentQualifier(in.Window, in.Ingester)))
					n++
				}
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
		return 0, fmt.Errorf("delete the intents and records of lost ingesters of day %d: %w", day, err)
	}
	return n, nil
}

// Intend writes intents: the ingester has samples of the windows that are not uploaded.
func (s *Work) Intend(ctx context.Context, ingester string, windows map[Window]schema.Intent) error {
	byDay := map[int64][]rows.Mutation{}
	for w, in := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.Set(rows.System, schema.IntentQualifier(w.Number, ingester), 0, in.Encode()))
	}
	return s.mutateWork(ctx, byDay, "write intents")
}

// ClearIntents deletes the intents of an ingester for windows whose samples are all
// uploaded.
func (s *Work) ClearIntents(ctx context.Context, ingester string, windows []Window) error {
	byDay := map[int64][]rows.Mutation{}
	for _, w := range windows {
		byDay[w.Day] = append(byDay[w.Day], rows.DeleteColumn(rows.System, schema.IntentQualifier(w.Number, ingester)))
	}
	return s.mutateWork(ctx, byDay, "clear intents")
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

// Intents returns the windows for which an ingester has intents.
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

// HasReceipt reports whether the work row of one of the days has a receipt of a pack.
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
	Cleared []int // windows of the day whose intents of the ingester are deleted with it
}

// AddReceipts writes the receipts of a pack. Each receipt is written in one mutation
// with the deletion of the intents in Cleared.
func (s *Work) AddReceipts(ctx context.Context, id ulid.ULID, list []DayReceipt) error {
	ms := make([]rows.RowMutation, 0, len(list))
	for i := range list {
		r := &list[i]
		m := []rows.Mutation{rows.Set(rows.System, schema.ReceiptQualifier(id), 0, r.Receipt.Encode())}
		for _, w := range r.Cleared {
			m = append(m, rows.DeleteColumn(rows.System, schema.IntentQualifier(w, r.Receipt.Ingester)))
		}
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(r.Day), Mutations: m})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("write receipts: %w", err)
	}
	return nil
}

// RequestRewrites requests the compaction of a tenant's days, to remove deleted series.
func (s *Work) RequestRewrites(ctx context.Context, t tenant.ID, days []int64) error {
	byDay := map[int64][]rows.Mutation{}
	for _, day := range days {
		byDay[day] = []rows.Mutation{rows.Set(rows.System, schema.RewriteQualifier(t), 0, []byte{1})}
	}
	return s.mutateWork(ctx, byDay, "request rewrites for deleted series")
}

// Rewritten removes a tenant's request for a rewrite from a day's work.
func (s *Work) Rewritten(ctx context.Context, t tenant.ID, day int64) error {
	return s.mutateWork(ctx, map[int64][]rows.Mutation{day: {rows.DeleteColumn(rows.System, schema.RewriteQualifier(t))}},
		"remove a request for a rewrite")
}

// RequestCleans requests that deleted series are removed from a tenant's days now,
// instead of when the days are due. `since` is the time of the request in Unix
// milliseconds.
func (s *Work) RequestCleans(ctx context.Context, t tenant.ID, days []int64, since int64) error {
	value := binary.BigEndian.AppendUint64(nil, uint64(since))
	byDay := map[int64][]rows.Mutation{}
	for _, day := range days {
		byDay[day] = []rows.Mutation{rows.Set(rows.System, schema.CleanQualifier(t), 0, value)}
	}
	return s.mutateWork(ctx, byDay, "request rewrites for deleted series now")
}

// Cleaned removes a tenant's request made by RequestCleans from a day's work, unless
// the request was repeated since it was read.
func (s *Work) Cleaned(ctx context.Context, day int64, c CleanOf) error {
	q := schema.CleanQualifier(c.Tenant)
	value := binary.BigEndian.AppendUint64(nil, uint64(c.Since))
	_, err := s.rows.CheckAndMutate(ctx, schema.WorkKey(day), rows.ValueIs(rows.System, q, value),
		[]rows.Mutation{rows.DeleteColumn(rows.System, q)}, nil)
	if err != nil {
		return fmt.Errorf("remove a request for a rewrite from the work of day %d: %w", day, err)
	}
	return nil
}
