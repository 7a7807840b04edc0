package bigtable

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/bigtable"

	"github.com/palliumhq/pallium/backend/rows"
)

// maxRangeBytes limits the keys of one read request; Bigtable accepts requests of 512 KiB.
// The encoding of a range has up to rangeBytes more than its keys.
const (
	maxRangeBytes = 448 << 10
	rangeBytes    = 16
)

// ReadRows implements rows.Store.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, once := withOnce(ctx)
	// Without this timer, a read to which Bigtable does not respond would wait until
	// its context is done.
	timeout := time.AfterFunc(s.noResponseAfter, func() { cancel(errNoResponse) })
	defer timeout.Stop()
	if err := rows.CheckRead(ranges, f); err != nil {
		return err
	}
	ranges = rows.Disjoint(ranges)
	sent := translate(f)
	left := f.Rows
	stopped := false
	for len(ranges) > 0 && !stopped {
		var set bigtable.RowRangeList
		set, ranges = nextRanges(ranges)
		opts := []bigtable.ReadOption{bigtable.RowFilter(sent.filter)}
		if f.Rows > 0 && sent.wanted == nil {
			opts = append(opts, bigtable.LimitRows(int64(left)))
		}
		err := s.table.ReadRows(ctx, set, func(r bigtable.Row) bool {
			timeout.Stop() // the time that visit takes does not count
			defer timeout.Reset(s.noResponseAfter)
			row := row(r)
			if sent.wanted != nil {
				if row.Cells = sent.rest(row.Cells, f.CellsPerRow); len(row.Cells) == 0 {
					return true
				}
			}
			left--
			if !visit(row) || f.Rows > 0 && left == 0 {
				stopped = true
			}
			return !stopped
		}, opts...)
		if err != nil {
			return failed(ctx, "read rows", cmp.Or(once.failure(), err))
		}
		// The client may return nil although the context is done: if the context ended
		// while the read was being stopped, and sometimes if it had ended before.
		if err := ctx.Err(); err != nil && !stopped {
			return failed(ctx, "read rows", err)
		}
	}
	return nil
}

// nextRanges returns as many ranges as fit into one request, and the others.
func nextRanges(ranges []rows.Range) (set bigtable.RowRangeList, left []rows.Range) {
	size := 0
	for i, r := range ranges {
		size += len(r.Start) + len(r.End) + rangeBytes
		if i > 0 && size > maxRangeBytes {
			return set, ranges[i:]
		}
		set = append(set, rowRange(r))
	}
	return set, nil
}

func rowRange(r rows.Range) bigtable.RowRange {
	if r.End == "" {
		return bigtable.InfiniteRange(r.Start)
	}
	return bigtable.NewRange(r.Start, r.End)
}

// row converts a row: families and qualifiers ascending, the newest version of a cell
// first.
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
