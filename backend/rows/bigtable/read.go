package bigtable

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"cloud.google.com/go/bigtable"

	"github.com/palliumhq/pallium/backend/rows"
)

// maxRangeBytes bounds the keys of one read request.
const maxRangeBytes = 1 << 20

// ReadRows implements rows.Store.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := rows.CheckRead(ranges, f); err != nil {
		return err
	}
	ranges = rows.Disjoint(ranges)
	opts := []bigtable.ReadOption{bigtable.RowFilter(filter(f))}
	left := f.Rows
	stopped := false
	for len(ranges) > 0 && !stopped {
		n, size := 0, 0
		var set bigtable.RowRangeList
		for n < len(ranges) && (n == 0 || size+len(ranges[n].Start)+len(ranges[n].End) <= maxRangeBytes) {
			size += len(ranges[n].Start) + len(ranges[n].End)
			set = append(set, rowRange(ranges[n]))
			n++
		}
		ranges = ranges[n:]
		part := opts
		if f.Rows > 0 {
			part = append(slices.Clone(opts), bigtable.LimitRows(int64(left)))
		}
		err := s.table.ReadRows(ctx, set, func(r bigtable.Row) bool {
			left--
			if !visit(row(r)) || f.Rows > 0 && left == 0 {
				stopped = true
			}
			return !stopped
		}, part...)
		if err != nil {
			return failed(ctx, "read rows", err)
		}
		// The client answers a context that ended while it was told to stop, and
		// sometimes one that had ended before, with nil.
		if err := ctx.Err(); err != nil && !stopped {
			return failed(ctx, "read rows", err)
		}
	}
	return nil
}

func rowRange(r rows.Range) bigtable.RowRange {
	if r.End == "" {
		return bigtable.InfiniteRange(r.Start)
	}
	return bigtable.NewRange(r.Start, r.End)
}

// row translates a row: families and qualifiers ascending, the newest version of
// a cell first.
func row(r bigtable.Row) rows.Row {
	out := rows.Row{Key: r.Key()}
	families := make([]string, 0, len(r))
	for f := range r {
		families = append(families, f)
	}
	slices.Sort(families)
	for _, f := range families {
		first := len(out.Cells)
		for _, item := range r[f] {
			out.Cells = append(out.Cells, rows.Cell{Family: rows.Family(f), Qualifier: strings.TrimPrefix(item.Column, f+":"),
				Time: int64(item.Timestamp) / 1000, Value: item.Value})
		}
		slices.SortStableFunc(out.Cells[first:], func(a, b rows.Cell) int {
			if c := strings.Compare(a.Qualifier, b.Qualifier); c != 0 {
				return c
			}
			return int(min(max(b.Time-a.Time, -1), 1))
		})
	}
	return out
}

// filter translates a filter; its parts apply in the order of the fields.
func filter(f rows.Filter) bigtable.Filter {
	var chain []bigtable.Filter
	if len(f.Families) > 0 {
		var names []string
		for _, n := range f.Families {
			names = append(names, quote(string(n)))
		}
		chain = append(chain, bigtable.FamilyFilter(strings.Join(names, "|")))
	}
	switch {
	case len(f.Qualifiers) > 0:
		var names []string
		for _, q := range f.Qualifiers {
			names = append(names, quote(q))
		}
		chain = append(chain, bigtable.ColumnFilter(strings.Join(names, "|")))
	case f.QualifierPrefix != "":
		chain = append(chain, bigtable.ColumnFilter(quote(f.QualifierPrefix)+`\C*`))
	}
	if f.MinTime > 0 {
		chain = append(chain, bigtable.TimestampRangeFilterMicros(bigtable.Timestamp(f.MinTime*1000), 0))
	}
	if f.Latest {
		chain = append(chain, bigtable.LatestNFilter(1))
	}
	if f.CellsPerRow > 0 {
		chain = append(chain, bigtable.CellsPerRowLimitFilter(f.CellsPerRow))
	}
	switch len(chain) {
	case 0:
		return bigtable.PassAllFilter()
	case 1:
		return chain[0]
	}
	return bigtable.ChainFilters(chain...)
}

func exactFamily(f rows.Family) bigtable.Filter { return bigtable.FamilyFilter(quote(string(f))) }
func exactColumn(q string) bigtable.Filter      { return bigtable.ColumnFilter(quote(q)) }

// quote escapes bytes for RE2 as Bigtable reads it: as bytes, of which none but
// letters, digits and the underscore may stand for themselves.
func quote(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
