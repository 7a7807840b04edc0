package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// lostMark stands in the name of an ingester that was lost with its disk, in the
// intents that it left. The names of instances cannot have it.
const lostMark = "~lost-"

// IsLost reports whether an intent's ingester was lost: nobody will settle what
// it owed.
func IsLost(ingester string) bool { return strings.Contains(ingester, lostMark) }

// Lose says that an ingester was lost with what it had not uploaded: its intents
// stay under a name that tells so, marked by the incarnation that was lost (or
// that took its place). also are windows of which it may have had samples before
// it could say so. Repeating it is harmless. It returns how many windows it owed.
func (s *Store) Lose(ctx context.Context, ingester, incarnation, zone string, also []Window) (int, error) {
	name := ingester + lostMark + incarnation
	var ms []rows.RowMutation
	n := 0
	seen := map[Window]bool{}
	err := s.eachWork(ctx, func(d *DayWork) error {
		m := rows.RowMutation{Key: schema.WorkKey(d.Day)}
		for _, in := range d.Intents {
			if in.Ingester != ingester {
				continue
			}
			if in.Zone == "" {
				in.Zone = zone
			}
			seen[Window{d.Day, in.Window}] = true
			m.Mutations = append(m.Mutations,
				rows.Set(rows.System, schema.IntentQualifier(in.Window, name), 0, in.Encode()),
				rows.DeleteColumn(rows.System, schema.IntentQualifier(in.Window, ingester)))
			n++
		}
		for i := range d.Asides {
			a := d.Asides[i]
			if a.Ingester != ingester {
				continue
			}
			m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, a.qualifier()))
			if a.Dropped != 0 {
				continue // given up before it was lost
			}
			if a.Zone == "" {
				a.Zone = zone
			}
			a.Ingester = name
			m.Mutations = append(m.Mutations, rows.Set(rows.System, a.qualifier(), 0, a.Encode()))
			n++
		}
		if len(m.Mutations) > 0 {
			ms = append(ms, m)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, w := range also {
		if seen[w] {
			continue
		}
		in := schema.Intent{Since: s.nowMillis(), Zone: zone}
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(w.Day),
			Mutations: []rows.Mutation{rows.Set(rows.System, schema.IntentQualifier(w.Number, name), 0, in.Encode())}})
		n++
	}
	for _, m := range ms { // one row at a time: what was and what is now change together
		if err := s.opts.Rows.Mutate(ctx, m); err != nil {
			return 0, fmt.Errorf("mark what %s owed as lost: %w", ingester, err)
		}
	}
	return n, nil
}

// Damaged says that an ingester that lives on lost samples of windows that others
// have, with a damaged log: it is marked as lost for them, by its incarnation,
// until they have uploaded theirs. Repeating it is harmless.
func (s *Store) Damaged(ctx context.Context, ingester, incarnation, zone string, windows []Window) error {
	name := ingester + lostMark + incarnation
	for _, w := range windows { // one row at a time
		in := schema.Intent{Since: s.nowMillis(), Zone: zone}
		err := s.opts.Rows.Mutate(ctx, rows.RowMutation{Key: schema.WorkKey(w.Day),
			Mutations: []rows.Mutation{rows.Set(rows.System, schema.IntentQualifier(w.Number, name), 0, in.Encode())}})
		if err != nil {
			return fmt.Errorf("mark windows as lost with a damaged log: %w", err)
		}
	}
	return nil
}

// Lost is what a lost ingester may have had alone.
type Lost struct {
	Ingester string // with the mark
	Zone     string
	Window   Window
	Since    int64     // of the intent, Unix milliseconds
	Tenant   tenant.ID // whose samples alone they are; empty: of all tenants
}

// Overlaps reports whether the lost window has times of [mint, maxt].
func (l *Lost) Overlaps(mint, maxt int64) bool {
	from := l.Window.Day*series.DayMillis + int64(l.Window.Number)*series.WindowMillis
	return from <= maxt && from+series.WindowMillis > mint
}

// Losses lists what lost ingesters may have had alone and is not known to be in
// the long-term store.
func (s *Store) Losses(ctx context.Context) ([]Lost, error) {
	var out []Lost
	err := s.eachWork(ctx, func(d *DayWork) error {
		for _, in := range d.Intents {
			if IsLost(in.Ingester) {
				out = append(out, Lost{Ingester: in.Ingester, Zone: in.Zone, Window: Window{d.Day, in.Window}, Since: in.Since})
			}
		}
		for _, a := range d.Asides {
			if IsLost(a.Ingester) {
				out = append(out, Lost{Ingester: a.Ingester, Zone: a.Zone, Window: a.Window, Since: a.Since, Tenant: a.Tenant})
			}
		}
		return nil
	})
	return out, err
}

// SettleLosses takes back intents of lost ingesters for windows that no other
// ingester owes samples of any more and that none of another zone was lost with:
// every acknowledged sample of them was on another ingester too, and is uploaded.
// Intents younger than before (Unix milliseconds) stay. It returns how many were
// taken back.
func (s *Store) SettleLosses(ctx context.Context, before int64) (int, error) {
	return s.settleLosses(ctx, func(d *DayWork, in IntentOf) bool { return in.Since <= before && settled(d, in, false) })
}

// SettleLoss takes back what one ingester owed that was lost, after all others
// have sealed and uploaded what they had. What an ingester of another zone was
// lost with, too, stays. It returns how many windows stay.
func (s *Store) SettleLoss(ctx context.Context, ingester string) (int, error) {
	left := 0
	_, err := s.settleLosses(ctx, func(d *DayWork, in IntentOf) bool {
		if !strings.HasPrefix(in.Ingester, ingester+lostMark) {
			return false
		}
		if !settled(d, in, true) {
			left++
			return false
		}
		return true
	})
	return left, err
}

// LossesOf counts the windows that an ingester of the name was lost with.
func (s *Store) LossesOf(ctx context.Context, ingester string) (int, error) {
	list, err := s.Losses(ctx)
	n := 0
	for i := range list {
		// What others can upload; what was set aside waits for an operator.
		if strings.HasPrefix(list[i].Ingester, ingester+lostMark) && list[i].Tenant == "" {
			n++
		}
	}
	return n, err
}

func (s *Store) settleLosses(ctx context.Context, which func(*DayWork, IntentOf) bool) (int, error) {
	byName := map[string][]Window{}
	err := s.eachWork(ctx, func(d *DayWork) error {
		for _, in := range d.Intents {
			if IsLost(in.Ingester) && which(d, in) {
				byName[in.Ingester] = append(byName[in.Ingester], Window{d.Day, in.Window})
			}
		}
		return nil
	})
	n := 0
	for name, windows := range byName {
		if err == nil {
			err = s.Settle(ctx, name, windows)
			n += len(windows)
		}
	}
	return n, err
}

// settled reports whether a lost ingester's window is with all others in the
// long-term store. With uploaded, those that live are known to have uploaded
// what they had.
func settled(d *DayWork, lost IntentOf, uploaded bool) bool {
	return !slices.ContainsFunc(d.Intents, func(o IntentOf) bool {
		if o.Window != lost.Window || o.Ingester == lost.Ingester {
			return false
		}
		if !IsLost(o.Ingester) {
			return !uploaded
		}
		return o.Zone != lost.Zone || o.Zone == ""
	})
}
