package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/cockroachdb/pebble/v2"

	"github.com/palliumhq/pallium/backend/rows"
)

// checkEvery is the number of cells read between two checks of the context.
const checkEvery = 1024

// ReadRows implements rows.Store.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	if err := rows.CheckRead(ranges, f); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.RUnlock()
	ranges = rows.Disjoint(ranges)
	if len(ranges) == 0 {
		return nil
	}
	it, err := s.db.NewIterWithContext(ctx, nil)
	if err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	r := &reader{ctx: ctx, it: it, filter: f, wanted: wantedColumns(f), visit: visit}
	for _, rg := range ranges {
		more, err := r.scan(rg)
		if err != nil {
			return errors.Join(fmt.Errorf("read rows: %w", err), it.Close())
		}
		if !more {
			break
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	return nil
}

// reader reads the rows of one ReadRows call.
type reader struct {
	ctx     context.Context
	it      *pebble.Iterator
	filter  rows.Filter
	wanted  [][]byte // sorted key prefixes of the selected columns, after the row part; none = all
	visit   func(rows.Row) bool
	visited int
	cells   int
}

// wantedColumns returns the prefixes, after the row part, of the keys that the families
// and qualifiers of a filter select, so that the reader can skip the others.
func wantedColumns(f rows.Filter) [][]byte {
	if len(f.Families) == 0 && len(f.Qualifiers) == 0 && f.QualifierPrefix == "" {
		return nil
	}
	families := f.Families
	if len(families) == 0 {
		families = rows.Families()
	}
	var out [][]byte
	for _, fam := range families {
		if len(f.Qualifiers) == 0 {
			out = append(out, appendEscaped([]byte{fam[0]}, f.QualifierPrefix))
		}
		for _, q := range f.Qualifiers {
			out = append(out, columnPrefix(nil, fam, q))
		}
	}
	slices.SortFunc(out, bytes.Compare)
	return slices.CompactFunc(out, bytes.Equal)
}

// scan reads one range and reports whether to continue with the next.
func (r *reader) scan(rg rows.Range) (bool, error) {
	lower, upper := bounds(rg)
	r.it.SetBounds(lower, upper)
	ok := r.it.First()
	for ok {
		row, _, err := splitRow(r.it.Key())
		if err != nil {
			return false, err
		}
		row = bytes.Clone(row)
		cells, err := r.row(row)
		if err != nil {
			return false, err
		}
		if len(cells) > 0 {
			r.visited++
			if !r.visit(rows.Row{Key: unescape(row), Cells: cells}) || r.visited == r.filter.Rows {
				return false, nil
			}
		}
		ok = r.it.Valid()
	}
	return true, r.it.Error()
}

// row reads the cells of the iterator's current row and advances it to the next row.
func (r *reader) row(row []byte) ([]rows.Cell, error) {
	var cells []rows.Cell
	for r.it.Valid() && bytes.HasPrefix(r.it.Key(), row) {
		if r.cells++; r.cells%checkEvery == 0 && r.ctx.Err() != nil {
			return nil, r.ctx.Err()
		}
		rest := r.it.Key()[len(row):]
		in, jump := r.place(rest)
		if jump != nil {
			r.it.SeekGE(append(bytes.Clone(row), jump...))
			continue
		}
		if !in {
			break
		}
		c, keep, err := r.cell(rest, cells)
		if err != nil {
			return nil, err
		}
		if keep {
			cells = append(cells, c)
			if len(cells) == r.filter.CellsPerRow {
				break
			}
		}
		r.it.Next()
	}
	if r.it.Valid() && bytes.HasPrefix(r.it.Key(), row) {
		r.it.SeekGE(prefixEnd(row))
	}
	return cells, r.it.Error()
}

// place reports whether rest is in a selected column. If not, jump is the prefix of the
// next selected column, or nil after the last one.
func (r *reader) place(rest []byte) (in bool, jump []byte) {
	if len(r.wanted) == 0 {
		return true, nil
	}
	i := sort.Search(len(r.wanted), func(i int) bool { return bytes.Compare(r.wanted[i], rest) > 0 })
	if i > 0 && bytes.HasPrefix(rest, r.wanted[i-1]) {
		return true, nil
	}
	if i == len(r.wanted) {
		return false, nil
	}
	return false, r.wanted[i]
}

// cell decodes the current cell and applies the rest of the filter.
func (r *reader) cell(rest []byte, before []rows.Cell) (rows.Cell, bool, error) {
	f, qualifier, ms, err := decodeCell(rest)
	if err != nil {
		return rows.Cell{}, false, err
	}
	if ms < r.filter.MinTime {
		return rows.Cell{}, false, nil
	}
	if n := len(before); r.filter.Latest && n > 0 && before[n-1].Family == f && before[n-1].Qualifier == qualifier {
		return rows.Cell{}, false, nil
	}
	v, err := r.it.ValueAndErr()
	if err != nil {
		return rows.Cell{}, false, err
	}
	return rows.Cell{Family: f, Qualifier: qualifier, Time: ms, Value: bytes.Clone(v)}, true, nil
}
