package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// Options are the options of Verify.
type Options struct {
	// Data makes Verify read every byte of every pack that a catalog names, and decode
	// the floats of compacted packs. Without it, Verify reads the end of each pack, and
	// the name, size and checksum of each object.
	Data bool
	// Finding is called for each inconsistency and for each failed read of an object
	// or of index rows, with its location.
	Finding func(where string, err error)
	// Progress is called before each day.
	Progress Progress
}

// Report counts what Verify checked.
type Report struct {
	Days, Packs, Cells int // Packs: compacted packs
	Series, Samples    int64
	Bytes              int64 // total size of the compacted packs
	Read               int64 // bytes read of the compacted packs
	Findings           int
}

// Verify checks that the catalogs, packs and index rows of tenants are consistent:
// every pack that a manifest names exists with its size and checksum, every index row
// that a pack has is identical to that copy, and every L0 pack that a catalog or a
// receipt names exists. Receipts are checked for all tenants. Inconsistencies and failed reads
// are passed to o.Finding. Verify returns an error only if catalogs cannot be read or
// ctx is done.
func (k *Checker) Verify(ctx context.Context, tenants []tenant.ID, o Options) (Report, error) {
	v := &verifier{k: k, o: o}
	for n, t := range tenants {
		list, _, err := k.index.Catalogs.Readable(ctx, t, 0, schema.MaxDay)
		if err != nil {
			return v.report, err
		}
		for i := range list {
			if err := ctx.Err(); err != nil {
				return v.report, err
			}
			o.Progress.day(&list[i], n, len(tenants), i, len(list))
			v.day(ctx, &list[i])
		}
	}
	v.work(ctx)
	return v.report, ctx.Err()
}

type verifier struct {
	k      *Checker
	o      Options
	report Report
}

func (v *verifier) finding(where string, err error) {
	v.report.Findings++
	if v.o.Finding != nil {
		v.o.Finding(where, err)
	}
}

func (v *verifier) day(ctx context.Context, c *index.Catalog) {
	v.report.Days++
	where := fmt.Sprintf("tenant %s, day %d", c.Tenant, c.Day)
	for i := range c.L0 {
		l := &c.L0[i]
		if err := v.l0(ctx, c, l); err != nil {
			v.finding(where+", object "+l.Object, err)
		}
	}
	m := c.Manifest
	if m == nil {
		return
	}
	if cell, err := c.VersionCell(); err != nil || cell.Version != m.Version {
		v.finding(where, errors.Join(err, fmt.Errorf("%w: the manifest has generation %s, the version cell %s", index.ErrInconsistent,
			m.Version, cell.Version)))
	}
	series, samples := int64(0), int64(0)
	expected := map[string]map[string][]byte{} // row key → qualifier → value
	for part := range m.Packs {
		e := &m.Packs[part]
		series, samples = series+e.Series, samples+e.Samples
		if err := v.pack(ctx, c, part, expected); err != nil {
			v.finding(where+", object "+e.Object, err)
		}
	}
	if series != m.Series || samples != m.Samples {
		v.finding(where, fmt.Errorf("%w: the packs have %d series and %d samples, the manifest lists %d and %d", index.ErrInconsistent, series,
			samples, m.Series, m.Samples))
	}
	v.report.Series += series
	v.report.Samples += samples
	v.rows(ctx, where, m.Version, expected)
}

func (v *verifier) l0(ctx context.Context, c *index.Catalog, l *index.L0) error {
	obj, err := v.k.opts.Objects.Stat(ctx, l.Object)
	if err != nil {
		return store.ObjectError(l.Object, err)
	}
	if obj.Size != l.ObjectSize {
		return fmt.Errorf("%w: the object has %d bytes, the index says %d", pack.ErrCorrupt, obj.Size, l.ObjectSize)
	}
	r, err := v.k.store.OpenPack(ctx, l.ID, l.Object, obj.Size)
	if err != nil {
		return err
	}
	defer func() { _ = r.Release() }() // closing an object source cannot fail
	for _, sec := range r.Info().Sections {
		if sec.Tenant != c.Tenant || sec.Day != c.Day {
			continue
		}
		if sec.Offset != l.Offset || sec.Length != l.Length || sec.CRC != l.CRC || sec.Samples != l.Samples {
			return fmt.Errorf("%w: the section of the tenant's day in the L0 pack differs from its entry in the catalog", index.ErrInconsistent)
		}
		if v.o.Data {
			return r.Verify()
		}
		return nil
	}
	return fmt.Errorf("%w: the L0 pack has no section of the tenant's day", index.ErrInconsistent)
}

// pack checks a compacted pack and adds the index cells that it should have to
// expected.
func (v *verifier) pack(ctx context.Context, c *index.Catalog, part int, expected map[string]map[string][]byte) error {
	e := &c.Manifest.Packs[part]
	obj, err := v.k.opts.Objects.Stat(ctx, e.Object)
	if err != nil {
		return store.ObjectError(e.Object, err)
	}
	if obj.Size != e.Size || obj.CRC != e.CRC {
		return fmt.Errorf("%w: the object has %d bytes with checksum %08x, the manifest says %d bytes with checksum %08x", pack.ErrCorrupt,
			obj.Size, obj.CRC, e.Size, e.CRC)
	}
	r, read, err := v.k.store.OpenTail(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = r.Release() }() // closing an object source cannot fail
	v.report.Packs++
	v.report.Bytes += e.Size
	info := r.Info()
	if len(info.Sections) != 1 || info.Sections[0].Tenant != c.Tenant || info.Sections[0].Day != c.Day ||
		info.Sections[0].Samples != e.Samples || int64(info.Sections[0].Series) != e.Series {
		return fmt.Errorf("%w: tenant, day or number of series or samples of the pack differ from the manifest", index.ErrInconsistent)
	}
	err = index.CellsOf(r, c.Tenant, c.Day, c.Manifest.Version, part, func(key, qualifier string, value []byte) {
		if expected[key] == nil {
			expected[key] = map[string][]byte{}
		}
		expected[key][qualifier] = value
	})
	if err == nil && v.o.Data {
		err = r.Verify()
	}
	v.report.Read += read()
	return err
}

// rows compares the index rows of a generation with the copies in its packs, and finds
// further cells in these rows, which no pack has.
func (v *verifier) rows(ctx context.Context, where string, version schema.Version, expected map[string]map[string][]byte) {
	keys := slices.Collect(maps.Keys(expected))
	err := v.k.index.Generations.EachCell(ctx, keys, version, func(key, qualifier string, cell []byte) {
		value, ok := expected[key][qualifier]
		switch {
		case !ok:
			v.finding(where, fmt.Errorf("%w: row %q has the cell %q, which no pack has", index.ErrInconsistent, key, qualifier))
		case !bytes.Equal(value, cell):
			v.finding(where, fmt.Errorf("%w: cell %q of row %q differs from the copy in its pack", index.ErrInconsistent, qualifier, key))
		}
		v.report.Cells++
		delete(expected[key], qualifier)
	})
	if err != nil {
		v.finding(where, err)
		return
	}
	for key, cells := range expected {
		for q := range cells {
			v.finding(where, fmt.Errorf("%w: row %q lacks the cell %q", index.ErrInconsistent, key, q))
		}
	}
}

// work checks that the packs of the receipts of all tenants exist with their size
// and checksum.
func (v *verifier) work(ctx context.Context) {
	list, err := v.k.index.Work.Days(ctx)
	if err != nil {
		v.finding("work rows", err)
		return
	}
	for _, d := range list {
		for _, r := range d.Receipts {
			obj, err := v.k.opts.Objects.Stat(ctx, r.Object)
			if errors.Is(err, objects.ErrNotFound) {
				err = store.ObjectError(r.Object, err)
			} else if err == nil && (obj.Size != r.Size || obj.CRC != r.CRC) {
				err = fmt.Errorf("%w: the object has %d bytes with checksum %08x, its receipt says %d bytes with checksum %08x",
					pack.ErrCorrupt, obj.Size, obj.CRC, r.Size, r.CRC)
			}
			if err != nil {
				v.finding(fmt.Sprintf("receipt of day %d, object %s", d.Day, r.Object), err)
			}
		}
	}
}
