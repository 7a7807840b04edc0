package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// VerifyOptions says how deep Verify looks.
type VerifyOptions struct {
	// Data reads every byte of every pack and decodes all samples; without it,
	// the packs' ends are read, and of the objects name, size and checksum.
	Data bool
	// Finding is told what is wrong, one thing at a time, and where.
	Finding func(where string, err error)
}

// VerifyReport counts what Verify saw.
type VerifyReport struct {
	Days, Packs, Cells int
	Series, Samples    int64
	Bytes              int64 // of packs
	Read               int64 // bytes read of them
	Findings           int
}

// Verify checks what must hold between catalog, packs and index of tenants: that
// every pack that a manifest names is there with its size and checksum, that the
// rows of the index are byte for byte what the packs keep of them, and that L0
// packs that catalogs name are there. What is wrong goes to o.Finding; an error
// means that checking itself failed.
func (s *Store) Verify(ctx context.Context, tenants []tenant.ID, o VerifyOptions) (VerifyReport, error) {
	v := &verifier{s: s, o: o}
	for _, t := range tenants {
		list, _, err := s.catalogs(ctx, t, 0, lastDay)
		if err != nil {
			return v.report, err
		}
		for i := range list {
			if err := ctx.Err(); err != nil {
				return v.report, err
			}
			v.day(ctx, &list[i])
		}
	}
	v.work(ctx)
	return v.report, ctx.Err()
}

type verifier struct {
	s      *Store
	o      VerifyOptions
	report VerifyReport
}

func (v *verifier) finding(where string, err error) {
	v.report.Findings++
	if v.o.Finding != nil {
		v.o.Finding(where, err)
	}
}

func (v *verifier) day(ctx context.Context, c *Catalog) {
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
	if cell, err := schema.DecodeVersionCell(c.cell); err != nil || cell.Version != m.Version {
		v.finding(where, errors.Join(err, fmt.Errorf("%w: the manifest is of generation %s, its version cell of %s", ErrIndex, m.Version, cell.Version)))
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
		v.finding(where, fmt.Errorf("%w: its packs have %d series and %d samples, the manifest says %d and %d", ErrIndex, series, samples, m.Series, m.Samples))
	}
	v.report.Series += series
	v.report.Samples += samples
	v.rows(ctx, where, m.Version, expected)
}

func (v *verifier) l0(ctx context.Context, c *Catalog, l *L0) error {
	obj, err := v.s.opts.Objects.Stat(ctx, l.Object)
	if err != nil {
		return objectError(l.Object, err)
	}
	if obj.Size != l.ObjectSize {
		return fmt.Errorf("%w: it has %d bytes, the index says %d", pack.ErrCorrupt, obj.Size, l.ObjectSize)
	}
	r, err := v.s.OpenPack(ctx, l.ID, l.Object, obj.Size)
	if err != nil {
		return err
	}
	defer func() { _ = r.Release() }() // a source that fetches has nothing to close
	for _, sec := range r.Info().Sections {
		if sec.Tenant != c.Tenant || sec.Day != c.Day {
			continue
		}
		if sec.Offset != l.Offset || sec.Length != l.Length || sec.CRC != l.CRC || sec.Samples != l.Samples {
			return fmt.Errorf("%w: its section is not the one that the catalog names", ErrIndex)
		}
		if v.o.Data {
			return r.Verify()
		}
		return nil
	}
	return fmt.Errorf("%w: it has no section of the day", ErrIndex)
}

// pack checks a compacted pack and notes which rows it should have in the index.
func (v *verifier) pack(ctx context.Context, c *Catalog, part int, expected map[string]map[string][]byte) error {
	e := &c.Manifest.Packs[part]
	obj, err := v.s.opts.Objects.Stat(ctx, e.Object)
	if err != nil {
		return objectError(e.Object, err)
	}
	if obj.Size != e.Size || obj.CRC != e.CRC {
		return fmt.Errorf("%w: it has %d bytes with checksum %08x, the manifest says %d with %08x", pack.ErrCorrupt, obj.Size, obj.CRC, e.Size, e.CRC)
	}
	r, read, err := v.s.openTail(ctx, e)
	if err != nil {
		return err
	}
	defer func() { _ = r.Release() }() // a source that fetches has nothing to close
	v.report.Packs++
	v.report.Bytes += e.Size
	info := r.Info()
	if len(info.Sections) != 1 || info.Sections[0].Tenant != c.Tenant || info.Sections[0].Day != c.Day || info.Sections[0].Samples != e.Samples || int64(info.Sections[0].Series) != e.Series {
		return fmt.Errorf("%w: it does not hold what the manifest says", ErrIndex)
	}
	err = v.s.indexOf(r, c.Tenant, c.Day, c.Manifest.Version, part, func(key, qualifier string, value []byte) {
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

// rows compares the rows of the index with what the packs keep of them, and
// looks for cells of the generation that no pack has.
func (v *verifier) rows(ctx context.Context, where string, version schema.Version, expected map[string]map[string][]byte) {
	var keys []rows.Range
	for key := range expected {
		keys = append(keys, rows.Single(key))
	}
	for len(keys) > 0 {
		n := min(len(keys), 512)
		err := v.s.opts.Rows.ReadRows(ctx, keys[:n], rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: version.Prefix(), MinTime: v.s.oldest(), Latest: true}, func(r rows.Row) bool {
			for _, cell := range r.Cells {
				value, ok := expected[r.Key][cell.Qualifier]
				switch {
				case !ok:
					v.finding(where, fmt.Errorf("%w: row %q has the cell %q, which no pack has", ErrIndex, r.Key, cell.Qualifier))
				case !bytes.Equal(value, cell.Value):
					v.finding(where, fmt.Errorf("%w: cell %q of row %q is not what its pack has", ErrIndex, cell.Qualifier, r.Key))
				}
				v.report.Cells++
				delete(expected[r.Key], cell.Qualifier)
			}
			return true
		})
		if err != nil {
			v.finding(where, err)
			return
		}
		keys = keys[n:]
	}
	for key, cells := range expected {
		for q := range cells {
			v.finding(where, fmt.Errorf("%w: row %q lacks the cell %q", ErrIndex, key, q))
		}
	}
}

// work checks that the packs of receipts are there.
func (v *verifier) work(ctx context.Context) {
	list, err := v.s.Work(ctx)
	if err != nil {
		v.finding("work rows", err)
		return
	}
	for _, d := range list {
		for _, r := range d.Receipts {
			obj, err := v.s.opts.Objects.Stat(ctx, r.Object)
			if errors.Is(err, objects.ErrNotFound) {
				err = objectError(r.Object, err)
			} else if err == nil && (obj.Size != r.Size || obj.CRC != r.CRC) {
				err = fmt.Errorf("%w: it has %d bytes with checksum %08x, its receipt says %d with %08x", pack.ErrCorrupt, obj.Size, obj.CRC, r.Size, r.CRC)
			}
			if err != nil {
				v.finding(fmt.Sprintf("receipt of day %d, object %s", d.Day, r.Object), err)
			}
		}
	}
}
