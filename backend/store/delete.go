package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// Deletion of series. A deletion has a number; every pack says which was the
// last one that was applied to what it holds, and whoever reads a pack applies
// the later ones. So that a number means the same everywhere, it is reserved
// first (nobody applies it yet), then every ingester seals what it has and takes
// the number for what it seals from then on, and then it is activated.

// maxPending is how long a reserved deletion may wait to be activated. Until
// then nothing of the tenant is compacted.
const maxPending = 15 * time.Minute

// ErrPendingGone is returned when a deletion waited too long to be activated.
var ErrPendingGone = errors.New("deletion took too long to reach all ingesters; nothing was deleted, repeat it")

// InvalidDeletion is the error of a deletion that the index has no room for: the
// caller's to mend.
type InvalidDeletion string

func (e InvalidDeletion) Error() string { return string(e) }

// checkDeletion reports whether there is room for another deletion of the tenant.
func (s *Store) checkDeletion(ctx context.Context, t tenant.ID, d *schema.Tombstone) error {
	size := len(d.Encode())
	if size > schema.MaxTombstone {
		return InvalidDeletion(fmt.Sprintf("the matchers of the deletion have %d bytes, at most %d are possible; send several deletions with fewer or shorter match[]", size, schema.MaxTombstone))
	}
	_, list, err := s.catalogs(ctx, t, 0, 0)
	if err != nil {
		return err
	}
	if len(list) >= schema.MaxTombstones {
		return InvalidDeletion(fmt.Sprintf("the tenant has %d deletions of series that are not worked off yet, at most %d are possible; delete more series at once, with wider matchers, or wait until older deletions are forgotten",
			len(list), schema.MaxTombstones))
	}
	program, err := instructionsOf(d, schema.MaxTombstoneInstructions)
	if err != nil {
		return InvalidDeletion(fmt.Sprintf("the regular expressions of the deletion have more than %d instructions once they are compiled; use several deletions, or fewer alternatives and repetitions", schema.MaxTombstoneInstructions))
	}
	all := size
	for i := range list {
		all += len(list[i].Encode())
		n, err := instructionsOf(&list[i].Tombstone, schema.MaxTombstonesInstructions-program)
		if err != nil {
			return InvalidDeletion(fmt.Sprintf("the regular expressions of the tenant's deletions of series would have more than %d instructions with those of this one; use shorter ones or wait until older deletions are forgotten", schema.MaxTombstonesInstructions))
		}
		program += n
	}
	if all > schema.MaxTombstonesBytes {
		return InvalidDeletion(fmt.Sprintf("the tenant's deletions of series would have %d bytes with this one, at most %d are possible; use shorter matchers or wait until older deletions are forgotten",
			all, schema.MaxTombstonesBytes))
	}
	return nil
}

// instructionsOf counts the instructions of a deletion's regular expressions. The
// error is that they are more than most.
func instructionsOf(d *schema.Tombstone, most int) (int, error) {
	sum := 0
	for _, set := range d.Sets {
		for _, m := range set {
			if m.Type != labels.MatchRegexp && m.Type != labels.MatchNotRegexp {
				continue
			}
			n, err := regexsize.Pattern(m.Value, most-sum)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// ReserveDeletion numbers a deletion of the series that one of the matcher sets
// matches, of samples in [mint, maxt]. One that there is no room for is
// InvalidDeletion, and nothing is reserved.
func (s *Store) ReserveDeletion(ctx context.Context, t tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) (schema.Tombstone, error) {
	key := schema.TenantKey(t)
	next := schema.NewTombstone(math.MaxUint64, mint, maxt, sets, s.nowMillis())
	if err := s.checkDeletion(ctx, t, &next); err != nil {
		return schema.Tombstone{}, fmt.Errorf("reserve a deletion: %w", err)
	}
	for range 10 {
		raw, number, err := s.lastNumber(ctx, t)
		if err != nil {
			return schema.Tombstone{}, err
		}
		d := schema.NewTombstone(number+1, mint, maxt, sets, s.nowMillis())
		condition := rows.Absent(rows.System, schema.LastTombstoneQualifier)
		if raw != nil {
			condition = rows.ValueIs(rows.System, schema.LastTombstoneQualifier, raw)
		}
		held, err := s.opts.Rows.CheckAndMutate(ctx, key, condition, []rows.Mutation{
			rows.Set(rows.System, schema.LastTombstoneQualifier, 0, binary.BigEndian.AppendUint64(nil, d.Number)),
			rows.Set(rows.System, schema.PendingQualifier(d.Number), 0, d.Encode()),
		}, nil)
		if err != nil {
			return d, fmt.Errorf("reserve a deletion: %w", err)
		}
		if held {
			return d, nil
		}
	}
	return schema.Tombstone{}, errors.New("reserve a deletion: too many at the same time; repeat it")
}

func (s *Store) lastNumber(ctx context.Context, t tenant.ID) (raw []byte, number uint64, err error) {
	err = s.opts.Rows.ReadRows(ctx, []rows.Range{rows.Single(schema.TenantKey(t))}, rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: []string{schema.LastTombstoneQualifier}, Latest: true}, func(r rows.Row) bool {
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

// ActivateDeletion makes a reserved deletion hold for every pack with a lower
// number, at once, and asks for the compaction of the days that it touches.
func (s *Store) ActivateDeletion(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
	d.State = schema.Active
	held, err := s.opts.Rows.CheckAndMutate(ctx, schema.TenantKey(t), rows.Present(rows.System, schema.PendingQualifier(d.Number)), []rows.Mutation{
		rows.DeleteColumn(rows.System, schema.PendingQualifier(d.Number)),
		rows.Set(rows.System, schema.TombstoneQualifier(d.Number), 0, d.Encode()),
	}, nil)
	if err != nil {
		return fmt.Errorf("activate deletion %d: %w", d.Number, err)
	}
	if !held {
		return ErrPendingGone
	}
	return s.askRewrites(ctx, t, d)
}

// askRewrites enters the days with data that a deletion touches into the work.
func (s *Store) askRewrites(ctx context.Context, t tenant.ID, d schema.Tombstone) error {
	first, last, ok := dayRange(d.MinTime, d.MaxTime)
	if !ok {
		return nil
	}
	list, _, err := s.catalogs(ctx, t, first, last)
	if err != nil {
		return err
	}
	byDay := map[int64][]rows.Mutation{}
	for i := range list {
		if m := list[i].Manifest; m != nil && m.Tombstone < d.Number {
			byDay[list[i].Day] = []rows.Mutation{rows.Set(rows.System, schema.RewriteQualifier(t), 0, []byte{1})}
		}
	}
	return s.mutateWork(ctx, byDay, "ask for compaction of deleted series")
}

// Rewritten takes a tenant's request for a rewrite out of a day's work.
func (s *Store) Rewritten(ctx context.Context, t tenant.ID, day int64) error {
	return s.mutateWork(ctx, map[int64][]rows.Mutation{day: {rows.DeleteColumn(rows.System, schema.RewriteQualifier(t))}}, "take a rewrite out of the work")
}

// CancelDeletions gives up reserved deletions that were never activated.
func (s *Store) CancelDeletions(ctx context.Context, t tenant.ID, d Deletions) error {
	m := rows.RowMutation{Key: schema.TenantKey(t)}
	for i := range d.list {
		if p := &d.list[i]; p.State == schema.Pending && s.nowMillis()-p.Created > maxPending.Milliseconds() {
			m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.System, schema.PendingQualifier(p.Number)))
		}
	}
	if len(m.Mutations) == 0 {
		return nil
	}
	if err := s.opts.Rows.Mutate(ctx, m); err != nil {
		return fmt.Errorf("cancel deletions of tenant %s: %w", t, err)
	}
	return nil
}

// ForgetDeletions drops the deletions that were created before a time and that
// no compacted pack of theirs lacks. Those that some lack are asked for again.
func (s *Store) ForgetDeletions(ctx context.Context, t tenant.ID, before int64) error {
	_, deletions, err := s.held(ctx, t, 0, 0)
	if err != nil {
		return err
	}
	for i := range deletions {
		d := &deletions[i]
		if d.State != schema.Active || d.Created >= before {
			continue
		}
		first, last, ok := dayRange(d.MinTime, d.MaxTime)
		if !ok {
			continue
		}
		list, _, err := s.held(ctx, t, first, last)
		if err != nil {
			return err
		}
		if needed(list, d.Number) {
			if err := s.askRewrites(ctx, t, d.Tombstone); err != nil {
				return err
			}
			continue
		}
		if aside, err := s.hasAside(ctx, t); err != nil || aside {
			return err // files of an ingester may be older than the deletion
		}
		err = s.opts.Rows.Mutate(ctx, rows.RowMutation{Key: schema.TenantKey(t), Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, schema.TombstoneQualifier(d.Number))}})
		if err != nil {
			return fmt.Errorf("forget deletion %d of tenant %s: %w", d.Number, t, err)
		}
	}
	return nil
}

// needed reports whether some pack was written before the deletion.
func needed(list []Catalog, number uint64) bool {
	for i := range list {
		if m := list[i].Manifest; m != nil && m.Tombstone < number {
			return true
		}
		for k := range list[i].L0 {
			if list[i].L0[k].Tombstone < number {
				return true
			}
		}
	}
	return false
}

// Metadata is what the published days of a range know of a tenant's metrics,
// sorted by metric, the newest first of each.
func (s *Store) Metadata(ctx context.Context, t tenant.ID, first, last int64) ([]series.MetricMetadata, error) {
	list, _, err := s.catalogs(ctx, t, first, last)
	if err != nil {
		return nil, err
	}
	if len(published(list)) == 0 {
		return nil, nil
	}
	parts, err := s.names(ctx, t, first, last)
	if err == nil {
		parts, err = s.publishedNames(ctx, list, parts)
	}
	if err != nil {
		return nil, err
	}
	var out []series.MetricMetadata
	for i := len(parts) - 1; i >= 0; i-- {
		out = append(out, parts[i].names.Metadata...)
	}
	sortMetadata(out)
	return out, nil
}

// ActiveDeletions calls visit for every active deletion of the tenants, in order
// of tenant and number.
func (s *Store) ActiveDeletions(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
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
		err := s.opts.Rows.ReadRows(ctx, ranges, rows.Filter{Families: []rows.Family{rows.System}, Latest: true}, func(r rows.Row) bool {
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
