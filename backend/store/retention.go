package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// lastDay is the last day there can be.
const lastDay = 1<<31 - 1

// Expiry says what Expire may take.
type Expiry struct {
	Now time.Time
	// Spent is how many days of the tenant the last 24 hours of running took by their
	// time alone; an expiry of All has no bound.
	Spent int
	All   bool
}

// Expired is what Expire did.
type Expired struct {
	Days      int  // that went
	ByTime    int  // of them those that only the time made due
	Waiting   int  // days that are due and wait for the next day, or for an operator
	Deletions bool // whether the tenant has deletions of series, as far as is known
}

// Expire takes the days of a tenant out of the index that are wholly beyond its
// retention, and enters their packs and rows into the garbage queue. Days that a
// lowered retention made due go all at once; of others, which only the time made
// due, few go in 24 hours, since the clock may be wrong.
func (s *Store) Expire(ctx context.Context, t tenant.ID, e Expiry) (Expired, error) {
	out := Expired{Deletions: true}
	keep, err := s.opts.Retention(ctx, t)
	if err != nil {
		return out, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	before := ExpiredBefore(e.Now, keep)
	if before <= 0 {
		return out, nil
	}
	list, deletions, err := s.catalogRows(ctx, t, 0, before-1, always)
	if err != nil {
		return out, err
	}
	out.Deletions = len(deletions) > 0
	may, err := s.mayExpire(ctx, t, list, e)
	if err != nil {
		return out, err
	}
	for i := range list {
		c := &list[i]
		lowered := !c.empty() && may.lowered(c)
		switch {
		case c.empty():
			err = s.forgetFence(ctx, c)
		case !lowered && out.ByTime >= may.byTime:
			out.Waiting++
		default:
			if err = s.expireDay(ctx, c); err == nil {
				out.Days++
			}
			if err == nil && !lowered {
				out.ByTime++
			}
		}
		if err != nil {
			return out, fmt.Errorf("expire day %d of tenant %s: %w", c.Day, t, err)
		}
	}
	return out, nil
}

// ExpiredBefore is the first day that a retention keeps: one more than it says, so
// that a read that clipped its range a moment ago finds everything.
func ExpiredBefore(now time.Time, keep time.Duration) int64 {
	if keep == 0 {
		return 0
	}
	return series.Day(now.Add(-keep).UnixMilli()) - 1
}

// allowance is which of a tenant's days may go.
type allowance struct {
	byTime  int
	lowered func(*Catalog) bool
}

// mayExpire finds out which days a lowered retention made due: those that would not
// be due by the retention for which the tenant's cells were stamped last, or where
// that is not known, by the one that the day was written under.
func (s *Store) mayExpire(ctx context.Context, t tenant.ID, due []Catalog, e Expiry) (allowance, error) {
	all := allowance{byTime: len(due), lowered: func(*Catalog) bool { return false }}
	if e.All || !slices.ContainsFunc(due, func(c Catalog) bool { return !c.empty() }) {
		return all, nil
	}
	kept, known, err := s.kept(ctx, t)
	if err != nil {
		return all, err
	}
	days, _, err := s.held(ctx, t, 0, lastDay)
	if err != nil {
		return all, err
	}
	all.byTime = max(clock.Days(len(days)+e.Spent)-e.Spent, 0)
	all.lowered = func(c *Catalog) bool {
		if known {
			return c.Day >= ExpiredBefore(e.Now, kept)
		}
		return c.Manifest != nil && (c.Manifest.Expiry == 0 || c.Manifest.Expiry > e.Now.UnixMilli())
	}
	return all, nil
}

// expireDay deletes the catalog cells of a day, and so hides it; what they named
// is swept later.
func (s *Store) expireDay(ctx context.Context, c *Catalog) error {
	if err := s.DropL0(ctx, c); err != nil || c.Manifest == nil {
		return err
	}
	if err := s.dueReplaced(ctx, c); err != nil {
		return err
	}
	number, err := c.fence()
	if err != nil {
		return err
	}
	// The number is raised: without a version, the cell could else be what an attempt
	// read before the first publication.
	_, err = s.opts.Rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), append(
		[]rows.Mutation{rows.DeleteColumn(rows.Data, schema.ManifestQualifier)}, setVersion(schema.VersionCell{Fence: number + 1}, s.nowMillis())...), nil)
	return err
}

// DropL0 takes the L0 packs out of a day's catalog without compacting them: the
// day is beyond retention, or its tenant was deleted.
func (s *Store) DropL0(ctx context.Context, c *Catalog) error {
	if len(c.L0) == 0 {
		return nil
	}
	m := rows.RowMutation{Key: schema.CatalogKey(c.Tenant, c.Day)}
	for _, l := range c.L0 {
		m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.Data, schema.L0Qualifier(l.ID)))
	}
	if err := s.opts.Rows.Mutate(ctx, m); err != nil {
		return fmt.Errorf("take L0 packs out of day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return nil
}

// keptQualifier is the cell of a tenant's row with the retention, in
// milliseconds, that all its cells are stamped for at least.
const keptQualifier = "kept"

// Restamp makes the cells of a tenant's days last as long as its retention, when
// that has become longer than they were written for. It returns how many days it
// stamped anew.
func (s *Store) Restamp(ctx context.Context, t tenant.ID) (int, error) {
	keep, err := s.opts.Retention(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	kept, known, err := s.kept(ctx, t)
	if err != nil {
		return 0, err
	}
	if known && kept == keep {
		return 0, nil
	}
	days := 0
	if !known || longer(keep, kept) {
		if days, err = s.restampDays(ctx, t, keep); err != nil {
			return days, err
		}
	}
	err = s.opts.Rows.Mutate(ctx, rows.RowMutation{Key: schema.TenantKey(t),
		Mutations: []rows.Mutation{rows.Set(rows.System, keptQualifier, 0, binary.BigEndian.AppendUint64(nil, uint64(keep.Milliseconds())))}})
	if err != nil {
		return days, fmt.Errorf("write retention of tenant %s: %w", t, err)
	}
	return days, nil
}

// longer reports whether retention a is longer than b; 0 is for ever.
func longer(a, b time.Duration) bool { return b != 0 && (a == 0 || a > b) }

func (s *Store) kept(ctx context.Context, t tenant.ID) (keep time.Duration, known bool, err error) {
	err = s.opts.Rows.ReadRows(ctx, []rows.Range{rows.Single(schema.TenantKey(t))}, rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: []string{keptQualifier}, Latest: true}, func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, keptQualifier); ok && len(c.Value) == 8 {
			keep, known = time.Duration(binary.BigEndian.Uint64(c.Value))*time.Millisecond, true
		}
		return true
	})
	if err != nil {
		return 0, false, fmt.Errorf("read retention of tenant %s: %w", t, err)
	}
	return keep, known, nil
}

func (s *Store) restampDays(ctx context.Context, t tenant.ID, keep time.Duration) (int, error) {
	list, _, err := s.catalogs(ctx, t, 0, lastDay)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range list {
		c := &list[i]
		stamp, expiry := stampFor(c.Day, keep)
		if c.Manifest == nil || c.Manifest.Expiry == expiry || !longer(time.Duration(expiry), time.Duration(c.Manifest.Expiry)) {
			continue
		}
		if err := s.restampDay(ctx, c, stamp, expiry); err != nil {
			return n, fmt.Errorf("stamp day %d of tenant %s anew: %w", c.Day, t, err)
		}
		n++
	}
	return n, nil
}

// restampDay writes a day's cells again with a later timestamp: the rows of the
// index first, then the manifest, so that a crash leaves a day that is stamped
// anew once more.
func (s *Store) restampDay(ctx context.Context, c *Catalog, stamp, expiry int64) error {
	parts, err := s.names(ctx, c.Tenant, c.Day, c.Day)
	if err == nil {
		parts, err = s.publishedNames(ctx, []Catalog{*c}, parts)
	}
	if err != nil {
		return err
	}
	keys := s.indexKeys(c, parts)
	for len(keys) > 0 {
		n := min(len(keys), 256)
		var ms []rows.RowMutation
		err := s.opts.Rows.ReadRows(ctx, keys[:n], rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: c.Manifest.Version.Prefix(), Latest: true}, func(r rows.Row) bool {
			m := rows.RowMutation{Key: r.Key}
			for _, cell := range r.Cells {
				if cell.Time != stamp {
					m.Mutations = append(m.Mutations, rows.Set(rows.Data, cell.Qualifier, stamp, cell.Value), rows.DeleteCell(rows.Data, cell.Qualifier, cell.Time))
				}
			}
			if len(m.Mutations) > 0 {
				ms = append(ms, m)
			}
			return true
		})
		if err == nil {
			err = s.mutateRows(ctx, ms)
		}
		if err != nil {
			return err
		}
		keys = keys[n:]
	}
	m := *c.Manifest
	m.Expiry = expiry
	number, err := c.fence()
	if err != nil {
		return err
	}
	held, err := s.opts.Rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), setManifest(&m, number, stamp), nil)
	if err == nil && !held {
		err = ErrConflict
	}
	return err
}

// indexKeys lists the rows of a day's published generation.
func (s *Store) indexKeys(c *Catalog, parts []namesPart) []rows.Range {
	keys := []rows.Range{rows.Single(schema.NamesKey(c.Tenant, c.Day))}
	for _, p := range parts {
		if p.version != c.Manifest.Version {
			continue
		}
		for i := range p.names.Metrics {
			keys = append(keys, rows.Single(schema.PagesKey(c.Tenant, p.names.Metrics[i].Name, c.Day)))
		}
		for i := range p.names.Labels {
			keys = append(keys, rows.Single(schema.ValuesKey(c.Tenant, p.names.Labels[i].Name, c.Day)))
		}
	}
	return keys
}

// Erased is what was erased of a deleted tenant.
type Erased struct {
	Objects int   `json:"objects"` // compacted packs
	Bytes   int64 `json:"bytes"`   // of them
	Rows    bool  `json:"rows"`    // whether there were rows of the index
	Last    int64 `json:"lastMs"`  // when something was found last, Unix milliseconds
}

// Erase deletes all compacted packs and all rows of a tenant that was deleted.
// It may be repeated, and is, for what was being written meanwhile. L0 packs
// hold many tenants; they go within a week of their upload.
func (s *Store) Erase(ctx context.Context, t tenant.ID) (Erased, error) {
	var e Erased
	gone, err := s.opts.Deleted(ctx, t)
	if err != nil {
		return e, err
	}
	if !gone {
		return e, fmt.Errorf("erase tenant %s: it is not deleted", t)
	}
	prefix := schema.TenantPrefix(t)
	err = s.opts.Rows.ReadRows(ctx, []rows.Range{rows.Prefix(prefix)}, rows.Filter{Rows: 1}, func(rows.Row) bool { e.Rows = true; return false })
	if err == nil && e.Rows {
		err = s.opts.Rows.DeletePrefix(ctx, prefix)
	}
	if err != nil {
		return e, fmt.Errorf("erase rows of tenant %s: %w", t, err)
	}
	var broken error
	err = s.opts.Objects.List(ctx, objectDir(string(t))+"/", func(o objects.Object) bool {
		if broken = s.opts.Objects.Delete(ctx, o.Name); broken != nil {
			return false
		}
		e.Objects++
		e.Bytes += o.Size
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return e, fmt.Errorf("erase objects of tenant %s: %w", t, err)
	}
	if !e.Rows && e.Objects == 0 {
		return e, nil
	}
	return e, s.report(ctx, t, e)
}

// erasureQualifier is the one cell of an erasure's row.
const erasureQualifier = "e"

// report adds to what is known to be erased of a tenant.
func (s *Store) report(ctx context.Context, t tenant.ID, e Erased) error {
	all, err := s.Erasure(ctx, t)
	if err != nil {
		return err
	}
	all.Objects, all.Bytes, all.Rows, all.Last = all.Objects+e.Objects, all.Bytes+e.Bytes, all.Rows || e.Rows, s.nowMillis()
	value, err := json.Marshal(all)
	if err == nil {
		err = s.opts.Rows.Mutate(ctx, rows.RowMutation{Key: schema.ErasureKey(t), Mutations: []rows.Mutation{rows.Set(rows.System, erasureQualifier, 0, value)}})
	}
	if err != nil {
		return fmt.Errorf("write what was erased of tenant %s: %w", t, err)
	}
	return nil
}

// Erasure is all that was erased of a deleted tenant so far; zero when nothing
// was.
func (s *Store) Erasure(ctx context.Context, t tenant.ID) (Erased, error) {
	var e Erased
	var bad error
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{rows.Single(schema.ErasureKey(t))}, rows.Filter{Families: []rows.Family{rows.System}, Latest: true}, func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, erasureQualifier); ok {
			bad = json.Unmarshal(c.Value, &e)
		}
		return true
	})
	if err = errors.Join(err, bad); err != nil {
		return e, fmt.Errorf("read what was erased of tenant %s: %w", t, err)
	}
	return e, nil
}
