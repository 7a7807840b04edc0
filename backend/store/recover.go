package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// generationID says in a compacted pack which part of which generation it is.
type generationID struct {
	Version schema.Version
	Part    int
	Last    bool // no part follows
}

func (g generationID) encode() ([]byte, error) { return json.Marshal(g) }

// foundPack is a compacted pack that was found by listing objects.
type foundPack struct {
	entry    schema.PackEntry
	id       generationID
	day      int64
	deletion uint64
}

// Tenants lists the tenants that the index or the object store has anything of,
// ascending.
func (s *Store) Tenants(ctx context.Context) ([]tenant.ID, error) {
	set := map[tenant.ID]struct{}{}
	for start := schema.FirstTenant; ; {
		key := ""
		err := s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: schema.EndOfTenants}}, rows.Filter{Rows: 1}, func(r rows.Row) bool { key = r.Key; return false })
		if err != nil {
			return nil, fmt.Errorf("list tenants: %w", err)
		}
		if key == "" {
			break
		}
		t, ok := schema.TenantOf(key)
		if !ok {
			return nil, fmt.Errorf("list tenants: row %q is of no tenant", key)
		}
		set[t] = struct{}{}
		start = rows.PrefixEnd(schema.TenantPrefix(t))
	}
	err := s.opts.Objects.List(ctx, "l1/", func(o objects.Object) bool {
		if parts := strings.Split(o.Name, "/"); len(parts) == 4 {
			set[tenant.ID(parts[1])] = struct{}{}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// recoverManifests makes manifests for the days of a tenant that have compacted
// packs and none: of the newest generation that is complete. It may be one that
// was never published; it then holds what was to be published.
func (s *Store) recoverManifests(ctx context.Context, t tenant.ID) (int, error) {
	byDay := map[int64][]objects.Object{}
	var broken error
	err := s.opts.Objects.List(ctx, objectDir(string(t))+"/", func(o objects.Object) bool {
		var day int64
		parts := strings.Split(o.Name, "/")
		if len(parts) == 4 {
			if _, broken = fmt.Sscan(parts[2], &day); broken == nil {
				byDay[day] = append(byDay[day], o)
			}
		}
		return broken == nil
	})
	if err = errors.Join(err, broken); err != nil {
		return 0, err
	}
	n := 0
	for _, day := range slices.Sorted(maps.Keys(byDay)) {
		c, err := s.Catalog(ctx, t, day)
		if err != nil {
			return n, err
		}
		if c.Manifest != nil {
			continue
		}
		var found []foundPack
		for _, o := range byDay[day] {
			f, err := s.identify(ctx, o.Name)
			if err != nil {
				return n, fmt.Errorf("object %s: %w", o.Name, err)
			}
			found = append(found, f)
		}
		m, ok := newestComplete(found)
		if !ok {
			return n, fmt.Errorf("day %d has packs of which no generation is complete", day)
		}
		if err := s.writeRecovered(ctx, &c, m); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// identify reads what a compacted pack says of itself.
func (s *Store) identify(ctx context.Context, name string) (foundPack, error) {
	var f foundPack
	o, err := s.opts.Objects.Stat(ctx, name)
	if err != nil {
		return f, err
	}
	f.entry = schema.PackEntry{Object: name, Size: o.Size, CRC: o.CRC}
	r, _, err := s.openTail(ctx, &f.entry)
	if err != nil {
		return f, err
	}
	defer func() { _ = r.Release() }() // a source that fetches has nothing to close
	info := r.Info()
	if len(info.Sections) != 1 {
		return f, fmt.Errorf("%w: it has %d sections", pack.ErrCorrupt, len(info.Sections))
	}
	sec := &info.Sections[0]
	f.entry.ID, f.entry.MinTime, f.entry.MaxTime = info.ID, sec.MinTime, sec.MaxTime
	f.entry.Series, f.entry.Samples = int64(sec.Series), sec.Samples
	f.day, f.deletion = sec.Day, sec.Deletion
	first := true
	err = r.EachIndexPage(0, func(metric string, _ []byte) error {
		if first {
			f.entry.FirstMetric, first = metric, false
		}
		f.entry.LastMetric = metric
		return nil
	})
	if err != nil {
		return f, err
	}
	cells, err := r.IndexCells(0)
	if err != nil {
		return f, err
	}
	for _, c := range cells {
		if c.Name == string(rune(cellGeneration)) {
			return f, json.Unmarshal(c.Value, &f.id)
		}
	}
	return f, fmt.Errorf("%w: it does not say which generation it is of", pack.ErrCorrupt)
}

// newestComplete makes the manifest of the newest generation of which all parts
// are there.
func newestComplete(found []foundPack) (schema.Manifest, bool) {
	byVersion := map[schema.Version][]foundPack{}
	for _, f := range found {
		byVersion[f.id.Version] = append(byVersion[f.id.Version], f)
	}
	versions := slices.SortedFunc(maps.Keys(byVersion), func(a, b schema.Version) int {
		return cmp.Or(cmp.Compare(b.Generation, a.Generation), cmp.Compare(b.Attempt, a.Attempt))
	})
next:
	for _, v := range versions {
		parts := byVersion[v]
		slices.SortFunc(parts, func(a, b foundPack) int { return cmp.Compare(a.id.Part, b.id.Part) })
		m := schema.Manifest{Version: v, Day: parts[0].day, Tombstone: parts[0].deletion}
		for i, p := range parts {
			if p.id.Part != i || p.id.Last != (i == len(parts)-1) {
				continue next
			}
			m.Packs = append(m.Packs, p.entry)
			m.Series += p.entry.Series
			m.Samples += p.entry.Samples
		}
		return m, true
	}
	return schema.Manifest{}, false
}

// writeRecovered publishes a recovered manifest, unless there is one by now. It
// raises the fence number: the version may be one that an attempt under way read
// before it was replaced and lost.
func (s *Store) writeRecovered(ctx context.Context, c *Catalog, m schema.Manifest) error {
	stamp, expiry, err := s.stamp(ctx, c.Tenant, m.Day)
	if err != nil {
		return err
	}
	number, err := c.fence()
	if err != nil {
		return err
	}
	m.Expiry, m.Written = expiry, s.nowMillis()
	held, err := s.opts.Rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, m.Day), c.unchanged(), setManifest(&m, number+1, stamp), nil)
	if err == nil && !held {
		err = ErrConflict
	}
	return err
}

// recoverL0 enters L0 packs into the index that no receipt and no garbage entry
// names. One that was compacted before is compacted again, which changes
// nothing.
func (s *Store) recoverL0(ctx context.Context) error {
	known := map[string]bool{}
	err := s.eachWork(ctx, func(d *DayWork) error {
		for _, r := range d.Receipts {
			known[r.Object] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	start, end := schema.GarbageRange(forever)
	var bad error
	err = s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{Families: []rows.Family{rows.System}, Latest: true}, func(r rows.Row) bool {
		if c, ok := r.Cell(rows.System, schema.GarbageQualifier); ok {
			var e schema.Garbage
			if e, bad = schema.DecodeGarbage(c.Value); bad == nil && e.Kind == garbageL0 {
				known[e.Name] = true
			}
		}
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil {
		return fmt.Errorf("read garbage queue: %w", err)
	}
	var lost []string
	if err := s.opts.Objects.List(ctx, "l0/", func(o objects.Object) bool {
		if !known[o.Name] {
			lost = append(lost, o.Name)
		}
		return true
	}); err != nil {
		return err
	}
	for _, name := range lost {
		var report SweepReport
		if err := s.adopt(ctx, schema.Garbage{Name: name}, &report); err != nil {
			return fmt.Errorf("object %s: %w", name, err)
		}
	}
	return nil
}
