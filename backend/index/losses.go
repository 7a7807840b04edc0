package index

import (
	"context"
	"fmt"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// lostMark stands in the name of an ingester that was lost with its disk, in the
// intents that it left. The names of instances cannot have it.
const lostMark = "~lost-"

// LostName is the name of an incarnation of an ingester that was lost.
func LostName(ingester, incarnation string) string { return ingester + lostMark + incarnation }

// IsLostOf reports whether a name is that of an ingester's lost incarnation.
func IsLostOf(name, ingester string) bool { return strings.HasPrefix(name, ingester+lostMark) }

// IsLost reports whether an intent's ingester was lost: nobody will settle what
// it owed.
func IsLost(ingester string) bool { return strings.Contains(ingester, lostMark) }

// Lose says that an ingester was lost with what it had not uploaded: its intents
// stay under a name that tells so, marked by the incarnation that was lost (or
// that took its place). also are windows of which it may have had samples before
// it could say so. Repeating it is harmless. It returns how many windows it owed.
func (s *Work) Lose(ctx context.Context, ingester, incarnation, zone string, also []Window) (int, error) {
	name := LostName(ingester, incarnation)
	var ms []rows.RowMutation
	n := 0
	seen := map[Window]bool{}
	err := s.Each(ctx, func(d *DayWork) error {
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
		if err := s.rows.Mutate(ctx, m); err != nil {
			return 0, fmt.Errorf("mark what %s owed as lost: %w", ingester, err)
		}
	}
	return n, nil
}

// Damaged says that an ingester that lives on lost samples of windows that others
// have, with a damaged log: it is marked as lost for them, by its incarnation,
// until they have uploaded theirs. Repeating it is harmless.
func (s *Work) Damaged(ctx context.Context, ingester, incarnation, zone string, windows []Window) error {
	name := LostName(ingester, incarnation)
	for _, w := range windows { // one row at a time
		in := schema.Intent{Since: s.nowMillis(), Zone: zone}
		err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.WorkKey(w.Day),
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
func (s *Work) Losses(ctx context.Context) ([]Lost, error) {
	var out []Lost
	err := s.Each(ctx, func(d *DayWork) error {
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

// LossesOf counts the windows that an ingester of the name was lost with.
func (s *Work) LossesOf(ctx context.Context, ingester string) (int, error) {
	list, err := s.Losses(ctx)
	n := 0
	for i := range list {
		// What others can upload; what was set aside waits for an operator.
		if IsLostOf(list[i].Ingester, ingester) && list[i].Tenant == "" {
			n++
		}
	}
	return n, err
}
