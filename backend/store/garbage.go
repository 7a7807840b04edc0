package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// The garbage queue. Whoever is about to write something that a crash could
// leave behind, or to publish something that replaces another, first enters it
// here with a time. When the time has come, Sweep looks whether anything refers
// to it, and deletes it only if nothing does. So every leftover is found by its
// entry, and nothing has to list all objects or rows to find one.

// Kinds of garbage.
const (
	garbagePack  = "pack"  // a compacted pack, unless the day's manifest names it
	garbageIndex = "index" // a generation's rows, unless it is the day's manifest's
	garbageL0    = "l0"    // an L0 pack that was consumed, unless a receipt or a catalog cell is left
	garbageAdopt = "adopt" // an L0 pack whose upload did not end: it is entered into the index
)

func (s *Store) due(ctx context.Context, at int64, e schema.Garbage) error {
	if err := s.opts.Rows.Mutate(ctx, dueMutation(at, e)); err != nil {
		return fmt.Errorf("enter %s into the garbage queue: %w", e.Name, err)
	}
	return nil
}

func dueMutation(at int64, e schema.Garbage) rows.RowMutation {
	return rows.RowMutation{Key: schema.GarbageKey(at, e.Name), Mutations: []rows.Mutation{rows.Set(rows.System, schema.GarbageQualifier, 0, e.Encode())}}
}

func (s *Store) dueObject(ctx context.Context, object, kind string, at int64) error {
	return s.due(ctx, at, schema.Garbage{Kind: kind, Name: object})
}

func (s *Store) duePack(ctx context.Context, object string, t tenant.ID, day int64, v schema.Version, at int64) error {
	return s.due(ctx, at, packGarbage(object, t, day, v))
}

func (s *Store) dueIndex(ctx context.Context, t tenant.ID, day int64, v schema.Version, at int64) error {
	return s.due(ctx, at, indexGarbage(t, day, v))
}

func packGarbage(object string, t tenant.ID, day int64, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: garbagePack, Name: object, Tenant: t, Day: day, Version: v}
}

func indexGarbage(t tenant.ID, day int64, v schema.Version) schema.Garbage {
	return schema.Garbage{Kind: garbageIndex, Name: fmt.Sprintf("index/%s/%d/%s", t, day, v), Tenant: t, Day: day, Version: v}
}

// dueGeneration enters the packs and the rows of a generation.
func (s *Store) dueGeneration(ctx context.Context, t tenant.ID, m *schema.Manifest, delay time.Duration) error {
	at := s.nowMillis() + delay.Milliseconds()
	ms := []rows.RowMutation{dueMutation(at, indexGarbage(t, m.Day, m.Version))}
	for i := range m.Packs {
		ms = append(ms, dueMutation(at, packGarbage(m.Packs[i].Object, t, m.Day, m.Version)))
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("enter generation %s into the garbage queue: %w", m.Version, err)
	}
	return nil
}

// dueReplaced enters what a catalog names, which is about to be replaced.
func (s *Store) dueReplaced(ctx context.Context, c *Catalog) error {
	if c.Manifest == nil {
		return nil
	}
	return s.dueGeneration(ctx, c.Tenant, c.Manifest, garbageDelay)
}

// journalL0 enters an L0 pack that is about to be uploaded.
func (s *Store) journalL0(ctx context.Context, u Upload) error {
	return s.dueObject(ctx, u.Object, garbageAdopt, u.Sealed+attemptDelay.Milliseconds())
}

// uploaded takes the journal's entry of an upload that ended.
func (s *Store) uploaded(ctx context.Context, u Upload) error {
	return s.drop(ctx, schema.GarbageKey(u.Sealed+attemptDelay.Milliseconds(), u.Object))
}

func (s *Store) drop(ctx context.Context, key string) error {
	if err := s.opts.Rows.Mutate(ctx, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.DeleteRow()}}); err != nil {
		return fmt.Errorf("take %q out of the garbage queue: %w", key, err)
	}
	return nil
}

// SweepReport counts what Sweep did.
type SweepReport struct {
	Objects, Generations int // deleted
	Kept                 int // entries of what turned out to be in use
	Adopted              int // L0 packs whose upload had not ended
}

type dueEntry struct {
	key   string
	entry schema.Garbage
}

// tenantDay names a catalog row.
type tenantDay struct {
	tenant tenant.ID
	day    int64
}

// sweeper works off one list of due entries.
type sweeper struct {
	s      *Store
	report *SweepReport
	// fenced are the days whose fence was raised since the list was read: none of
	// the attempts that had an entry then can publish any more.
	fenced map[tenantDay]struct{}
}

// Sweep works off the garbage queue as far as it is due. What fails stays in the
// queue; the errors are joined.
func (s *Store) Sweep(ctx context.Context) (SweepReport, error) {
	var report SweepReport
	errs := s.settleAsides(ctx)
	for {
		list, err := s.dueNow(ctx, 1000)
		if err != nil {
			return report, errors.Join(errs, err)
		}
		progress := false
		sw := sweeper{s: s, report: &report, fenced: map[tenantDay]struct{}{}}
		for _, d := range list {
			err := sw.collect(ctx, d.entry)
			if err == nil {
				err = s.drop(ctx, d.key)
			}
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("sweep %s: %w", d.entry.Name, err))
				continue
			}
			progress = true
		}
		if len(list) < 1000 || !progress || ctx.Err() != nil {
			return report, errs
		}
	}
}

func (s *Store) dueNow(ctx context.Context, most int) ([]dueEntry, error) {
	start, end := schema.GarbageRange(s.nowMillis())
	var list []dueEntry
	var broken error
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{Families: []rows.Family{rows.System}, Latest: true, Rows: most}, func(r rows.Row) bool {
		c, ok := r.Cell(rows.System, schema.GarbageQualifier)
		if !ok {
			return true
		}
		e, err := schema.DecodeGarbage(c.Value)
		if err != nil {
			broken = fmt.Errorf("garbage entry %q: %w", r.Key, err)
			return false
		}
		list = append(list, dueEntry{r.Key, e})
		return true
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return nil, fmt.Errorf("read garbage queue: %w", err)
	}
	return list, nil
}

// collect deletes what an entry names unless something refers to it.
func (sw *sweeper) collect(ctx context.Context, e schema.Garbage) error {
	switch e.Kind {
	case garbagePack:
		return sw.collectPack(ctx, e)
	case garbageIndex:
		return sw.collectIndex(ctx, e)
	case garbageL0:
		return sw.s.collectL0(ctx, e, sw.report)
	case garbageAdopt:
		return sw.s.adopt(ctx, e, sw.report)
	}
	return fmt.Errorf("garbage of the kind %q is not known to this version; a newer one wrote it", e.Kind)
}

func (sw *sweeper) collectPack(ctx context.Context, e schema.Garbage) error {
	used, err := sw.inUse(ctx, e, func(m *schema.Manifest) bool {
		return slices.ContainsFunc(m.Packs, func(p schema.PackEntry) bool { return p.Object == e.Name })
	})
	if err != nil || used {
		return err
	}
	sw.report.Objects++
	return sw.s.opts.Objects.Delete(ctx, e.Name)
}

func (sw *sweeper) collectIndex(ctx context.Context, e schema.Garbage) error {
	used, err := sw.inUse(ctx, e, func(m *schema.Manifest) bool { return m.Version == e.Version })
	if err != nil || used {
		return err
	}
	sw.report.Generations++
	return sw.s.deleteIndex(ctx, e.Tenant, e.Day, e.Version)
}

// maxFenceTries is how often a sweep tries to raise the fence of a day that others
// publish at the same time; then the entry waits for the next sweep.
const maxFenceTries = 3

// inUse reports whether the manifest of the entry's day names what the entry does.
// When it does not, it never will: an attempt that could still publish it is
// fenced off. The time of an entry says only that the attempt should have ended,
// by the clock of whoever sweeps.
func (sw *sweeper) inUse(ctx context.Context, e schema.Garbage, names func(*schema.Manifest) bool) (bool, error) {
	day := tenantDay{e.Tenant, e.Day}
	for range maxFenceTries {
		c, err := sw.s.Catalog(ctx, e.Tenant, e.Day)
		if err != nil {
			return false, err
		}
		if c.Manifest != nil && names(c.Manifest) {
			sw.report.Kept++
			return true, nil
		}
		if _, done := sw.fenced[day]; done || !mayPublish(&c, e.Version) {
			return false, nil
		}
		// The rows of a deleted tenant go again and again, and what publishes with them.
		if gone, err := sw.s.opts.Deleted(ctx, e.Tenant); err != nil || gone {
			return false, err
		}
		held, err := sw.s.raiseFence(ctx, &c)
		if err != nil {
			return false, err
		}
		if held {
			sw.fenced[day] = struct{}{}
			return false, nil
		}
	}
	return false, fmt.Errorf("day %d of tenant %s is being published by others; its leftovers wait for the next sweep", e.Day, e.Tenant)
}

// deleteIndex deletes the rows of one generation of a day: what its names list,
// and then the names.
func (s *Store) deleteIndex(ctx context.Context, t tenant.ID, day int64, v schema.Version) error {
	parts, err := s.names(ctx, t, day, day)
	if err != nil {
		return err
	}
	var keys []rows.Range
	for _, p := range parts {
		if p.version != v {
			continue
		}
		for _, m := range p.names.Metrics {
			keys = append(keys, rows.Single(schema.PagesKey(t, m.Name, day)))
		}
		for _, l := range p.names.Labels {
			keys = append(keys, rows.Single(schema.ValuesKey(t, l.Name, day)))
		}
	}
	for len(keys) > 0 {
		n := min(len(keys), 512)
		if err := s.deleteCells(ctx, keys[:n], v); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return s.deleteCells(ctx, []rows.Range{rows.Single(schema.NamesKey(t, day))}, v)
}

// deleteCells deletes a generation's cells of the rows.
func (s *Store) deleteCells(ctx context.Context, keys []rows.Range, v schema.Version) error {
	var ms []rows.RowMutation
	err := s.opts.Rows.ReadRows(ctx, keys, rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: v.Prefix()}, func(r rows.Row) bool {
		m := rows.RowMutation{Key: r.Key}
		for _, c := range r.Cells {
			m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.Data, c.Qualifier))
		}
		ms = append(ms, m)
		return true
	})
	if err != nil {
		return fmt.Errorf("read rows of generation %s: %w", v, err)
	}
	return s.mutateRows(ctx, ms)
}

// maxAdoptAge is how old an L0 pack may be that is adopted. An older one might
// bring back series whose deletion is forgotten already.
const maxAdoptAge = 14 * 24 * 60 * 60 * 1000 // milliseconds

// adopt enters an L0 pack into the index whose upload did not end because its
// ingester was lost: the pack says itself what it holds.
func (s *Store) adopt(ctx context.Context, e schema.Garbage, report *SweepReport) error {
	obj, info, err := s.l0Info(ctx, e.Name)
	if errors.Is(err, objects.ErrNotFound) {
		return nil // its ingester has it still, or it was lost before it was stored
	}
	if err != nil {
		return err
	}
	if age := s.nowMillis() - int64(info.ID.Time()); age > maxAdoptAge {
		return fmt.Errorf("the pack is %d days old and was never entered into the index; it is too old to be entered safely now: delete it, or restore its ingester", age/86_400_000)
	}
	if err := s.enter(ctx, uploadOf(obj, info), obj); err != nil {
		return err
	}
	report.Adopted++
	s.opts.Logger.Warn("entered an L0 pack into the index whose ingester did not finish the upload", "object", e.Name, "ingester", info.Source)
	return nil
}

// uploadOf is what is known of an upload from the object alone.
func uploadOf(obj objects.Object, info pack.Info) Upload {
	return Upload{Object: obj.Name, CRC: obj.CRC, Info: info, Ingester: info.Source, Sealed: int64(info.ID.Time()), Windows: WindowsOf(info)}
}

// WindowsOf is the windows that a pack's sections may have samples of; from the
// outside only the bounds of sections are known.
func WindowsOf(info pack.Info) []Window {
	seen := map[Window]bool{}
	var out []Window
	for i := range info.Sections {
		sec := &info.Sections[i]
		for w := WindowOf(sec.MinTime); ; w.Number++ {
			if !seen[w] {
				seen[w] = true
				out = append(out, w)
			}
			if w == WindowOf(sec.MaxTime) {
				break
			}
		}
	}
	return out
}

// l0Info opens an L0 pack to read what it says of itself.
func (s *Store) l0Info(ctx context.Context, object string) (objects.Object, pack.Info, error) {
	obj, err := s.opts.Objects.Stat(ctx, object)
	if err != nil {
		return obj, pack.Info{}, err
	}
	r, err := s.OpenPack(ctx, ulid.ULID{}, object, obj.Size)
	if err != nil {
		return obj, pack.Info{}, err
	}
	info := r.Info()
	return obj, info, r.Release()
}
