package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// foundPack is a compacted pack found by listing objects.
type foundPack struct {
	entry    schema.PackEntry
	id       index.Identity
	day      int64
	deletion uint64
}

// recoverManifests writes a manifest for each day of a tenant that has compacted packs
// and no manifest, for the newest complete generation. That generation may never have
// been published; it is complete nevertheless. It returns the number of manifests
// written, and an error that names the days or objects that could not be recovered, after it
// recovered all others.
func (k *Checker) recoverManifests(ctx context.Context, t tenant.ID) (int, error) {
	byDay := map[int64][]objects.Object{}
	var errs []error
	err := k.opts.Objects.List(ctx, store.ObjectDir(t)+"/", func(o objects.Object) bool {
		parts := strings.Split(o.Name, "/")
		if len(parts) != 4 {
			return true
		}
		day, err := strconv.ParseInt(parts[2], 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("object %s: %q is not a day", o.Name, parts[2]))
			return true
		}
		byDay[day] = append(byDay[day], o)
		return true
	})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, day := range slices.Sorted(maps.Keys(byDay)) {
		recovered, err := k.recoverManifest(ctx, t, day, byDay[day])
		switch {
		case ctx.Err() != nil:
			return n, ctx.Err()
		case err != nil:
			errs = append(errs, err)
		case recovered:
			n++
		}
	}
	return n, errors.Join(errs...)
}

// recoverManifest writes the manifest of a day with these compacted packs, unless it has
// one. It reports whether it wrote one.
func (k *Checker) recoverManifest(ctx context.Context, t tenant.ID, day int64, packs []objects.Object) (bool, error) {
	c, err := k.index.Catalogs.Read(ctx, t, day)
	if err != nil || c.Manifest != nil {
		return false, err
	}
	var found []foundPack
	for _, o := range packs {
		f, err := k.identify(ctx, o.Name)
		if err != nil {
			return false, fmt.Errorf("object %s: %w", o.Name, err)
		}
		found = append(found, f)
	}
	m, ok := newestComplete(found)
	if !ok {
		return false, fmt.Errorf("day %d has compacted packs but no manifest and no complete generation: packs are missing, or "+
			"the first compaction of the day was interrupted, which loses nothing", day)
	}
	return true, k.writeRecovered(ctx, &c, m)
}

// identify reads the manifest entry, version and part of a compacted pack from the pack.
func (k *Checker) identify(ctx context.Context, name string) (foundPack, error) {
	var f foundPack
	o, err := k.opts.Objects.Stat(ctx, name)
	if err != nil {
		return f, err
	}
	f.entry = schema.PackEntry{Object: name, Size: o.Size, CRC: o.CRC}
	r, _, err := k.store.OpenTail(ctx, &f.entry)
	if err != nil {
		return f, err
	}
	defer func() { _ = r.Release() }() // closing an object source cannot fail
	info := r.Info()
	if len(info.Sections) != 1 {
		return f, fmt.Errorf("%w: compacted pack has %d sections, want 1", pack.ErrCorrupt, len(info.Sections))
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
	f.id, err = index.IdentityOf(cells)
	return f, err
}

// newestComplete returns the manifest of the newest generation whose parts all
// exist.
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

// writeRecovered publishes a recovered manifest. It returns store.ErrConflict if the
// day was published, expired or swept in the meantime. It raises the fence number
// because this generation may have been published before, and replaced by a later one that
// is lost now. A compaction that read the catalog at that time must not publish its result.
func (k *Checker) writeRecovered(ctx context.Context, c *index.Catalog, m schema.Manifest) error {
	stamp, expiry, err := k.store.Stamp(ctx, c.Tenant, m.Day)
	if err != nil {
		return err
	}
	number, err := c.Fence()
	if err != nil {
		return err
	}
	m.Expiry, m.Written = expiry, k.opts.Now().UnixMilli()
	held, err := k.index.Catalogs.Replace(ctx, c, &m, number+1, stamp)
	if err == nil && !held {
		err = fmt.Errorf("manifest of day %d: %w", m.Day, store.ErrConflict)
	}
	return err
}

// recoverL0 finds the L0 packs that are named by no receipt and by no garbage entry of
// a consumed pack, and enters them into the index. A pack that was already compacted is
// compacted again, which changes nothing.
func (k *Checker) recoverL0(ctx context.Context) error {
	known := map[string]bool{}
	err := k.index.Work.Each(ctx, func(d *index.DayWork) error {
		for _, r := range d.Receipts {
			known[r.Object] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = k.index.Garbage.Each(ctx, func(e schema.Garbage) {
		if e.Kind == index.GarbageL0 {
			known[e.Name] = true
		}
	})
	if err != nil {
		return err
	}
	var lost []string
	if err := k.opts.Objects.List(ctx, "l0/", func(o objects.Object) bool {
		if !known[o.Name] {
			lost = append(lost, o.Name)
		}
		return true
	}); err != nil {
		return err
	}
	for _, name := range lost {
		if _, err := k.store.Adopt(ctx, name); err != nil {
			return fmt.Errorf("object %s: %w", name, err)
		}
	}
	return nil
}
