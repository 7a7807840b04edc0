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

// lostMark is the part of a lost ingester's name, in the intents of the lost windows,
// between the instance and the incarnation. Names of instances cannot contain it.
const lostMark = "~lost-"

// LostName returns the name of a lost incarnation of an ingester.
func LostName(ingester, incarnation string) string { return ingester + lostMark + incarnation }

// IsLostOf reports whether name is the name of a lost incarnation of the ingester.
func IsLostOf(name, ingester string) bool { return strings.HasPrefix(name, ingester+lostMark) }

// InstanceOf returns the ID of an ingester by its name in an intent or record, which for a
// lost incarnation was made by LostName.
func InstanceOf(name string) string {
	id, _, _ := strings.Cut(name, lostMark)
	return id
}

// IsLost reports whether the ingester of an intent was lost, so that it will not upload
// the window and clear the intent.
func IsLost(ingester string) bool { return strings.Contains(ingester, lostMark) }

// MarkLost records that an ingester's disk is gone, together with its windows that were
// never uploaded: in the ingester's intents and records of series set aside, it replaces
// the ingester by LostName. incarnation is the lost one, or the one that replaced it. also
// lists further windows for which the ingester may have had samples without an intent
// yet. MarkLost is idempotent. It returns the number of intents and records marked as
// lost.
func (s *Work) MarkLost(ctx context.Context, ingester, incarnation, zone string, also []Window) (int, error) {
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
				continue // an operator dropped it before the ingester was lost
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
	for _, m := range ms { // each row in one atomic mutation
		if err := s.rows.Mutate(ctx, m); err != nil {
			return 0, fmt.Errorf("mark pending windows of %s as lost: %w", ingester, err)
		}
	}
	return n, nil
}

// MarkDamaged records that a running ingester lost samples of windows because its
// write-ahead log is damaged. Its incarnation counts as lost for these windows until
// the replicas have uploaded their copies. MarkDamaged is idempotent.
func (s *Work) MarkDamaged(ctx context.Context, ingester, incarnation, zone string, windows []Window) error {
	name := LostName(ingester, incarnation)
	for _, w := range windows { // one row at a time
		in := schema.Intent{Since: s.nowMillis(), Zone: zone}
		err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.WorkKey(w.Day),
			Mutations: []rows.Mutation{rows.Set(rows.System, schema.IntentQualifier(w.Number, name), 0, in.Encode())}})
		if err != nil {
			return fmt.Errorf("mark windows of a damaged log as lost: %w", err)
		}
	}
	return nil
}

// Lost is a window for which a lost ingester may have had the only copy of some
// samples.
type Lost struct {
	Ingester string // a name made by LostName
	Zone     string
	Window   Window
	Since    int64     // time of the intent or record, Unix milliseconds
	Tenant   tenant.ID // the only tenant that may have lost samples; empty if any may
}

// Overlaps reports whether the lost window overlaps [mint, maxt].
func (l *Lost) Overlaps(mint, maxt int64) bool {
	from := l.Window.Day*series.DayMillis + int64(l.Window.Number)*series.WindowMillis
	return from <= maxt && from+series.WindowMillis > mint
}

// Losses returns the lost windows whose samples may be missing in the long-term
// store.
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

// LossesOf returns the number of lost windows of an ingester. Series set aside do not
// count.
func (s *Work) LossesOf(ctx context.Context, ingester string) (int, error) {
	list, err := s.Losses(ctx)
	n := 0
	for i := range list {
		// Replicas cannot upload series set aside; an operator decides about those.
		if IsLostOf(list[i].Ingester, ingester) && list[i].Tenant == "" {
			n++
		}
	}
	return n, err
}
