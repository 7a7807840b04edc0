// Package retried provides a row store whose reads are retried and hedged; see package retry.
// Writes are not retried: after a failed write, its caller decides what to do.
package retried

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/retry"
	"github.com/palliumhq/pallium/backend/rows"
)

// Kinds of reads. The time to the first row depends on the kind.
const (
	few  = "rows_few"  // up to fewKeys single keys
	many = "rows_many" // more single keys
	scan = "scan"      // ranges
)

const fewKeys = 16

// stall is how long a try waits for its first row. After the same time without a further row,
// the adapter for Bigtable ends a read with an error.
const stall = 20 * time.Second

// Options configure a Store.
type Options struct {
	// Permanent reports whether a retry would fail with the same error of the adapter.
	// rows.ErrInvalid and rows.ErrClosed are always permanent. If Permanent is nil, no
	// other error is.
	Permanent  func(error) bool
	Registerer prometheus.Registerer // nil: none
}

// Store retries and hedges the reads of a row store that does not retry them itself.
type Store struct {
	rows.Store
	reads *retry.Reads
}

var _ rows.Store = (*Store)(nil)

// New returns a Store for s.
func New(s rows.Store, o Options) *Store {
	permanent := func(err error) bool {
		return errors.Is(err, rows.ErrInvalid) || errors.Is(err, rows.ErrClosed) || o.Permanent != nil && o.Permanent(err)
	}
	return &Store{Store: s, reads: retry.New(retry.Options{Store: "rows", Kinds: []string{few, many, scan},
		Permanent: permanent, Registerer: o.Registerer})}
}

// ReadRows implements rows.Store. A read that fails after it returned rows continues after the
// last of them, with retry.Tries new tries, so that a long scan is not limited to three
// failures. A read is hedged only while it waits for its first row.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	// A canceled try may still use the arguments after this call has returned.
	ranges = slices.Clone(ranges)
	f.Families, f.Qualifiers = slices.Clone(f.Families), slices.Clone(f.Qualifiers)
	read := retry.Read{Kind: kind(ranges), Stall: stall}
	for {
		left, filter := ranges, f // copies, because later tries change ranges and f
		st, release, err := retry.Do(ctx, s.reads, read, func(ctx context.Context) (*stream, error) { return s.open(ctx, left, filter) })
		if err != nil {
			return err
		}
		last, n, err := st.deliver(visit, release)
		if err == nil || n == 0 || !s.reads.Helps(ctx, err) {
			return err
		}
		if f.Rows > 0 {
			if f.Rows -= n; f.Rows == 0 {
				return nil
			}
		}
		if ranges = after(ranges, last); len(ranges) == 0 {
			return nil
		}
		if !retry.Pause(ctx, 1) {
			return err
		}
	}
}

// kind returns the kind of a read.
func kind(ranges []rows.Range) string {
	for _, r := range ranges {
		if r.End != r.Start+"\x00" {
			return scan
		}
	}
	if len(ranges) > fewKeys {
		return many
	}
	return few
}

// after returns the parts of the ranges after a key.
func after(ranges []rows.Range, key string) []rows.Range {
	next := key + "\x00"
	var out []rows.Range
	for _, r := range ranges {
		if r.End != "" && r.End <= next {
			continue
		}
		out = append(out, rows.Range{Start: max(r.Start, next), End: r.End})
	}
	return out
}

// stream is a read that has received its first row or has ended. The goroutine that reads
// rows passes them on through a channel instead of calling visit, so that only one try
// calls visit, in the caller's goroutine.
type stream struct {
	first *rows.Row // nil: there is none
	rows  chan rows.Row
	end   chan error // receives the result of the read, after its last row
}

// open starts a read, which runs until ctx is done, and waits for its first row.
func (s *Store) open(ctx context.Context, ranges []rows.Range, f rows.Filter) (*stream, error) {
	st := &stream{rows: make(chan rows.Row), end: make(chan error, 1)}
	go func() {
		err := s.Store.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
			select {
			case st.rows <- r:
				return true
			case <-ctx.Done():
				return false
			}
		})
		if err == nil {
			err = ctx.Err() // either the read stopped because ctx is done, or ctx ended later, and then nobody reads the error
		}
		st.end <- err
	}()
	select {
	case r := <-st.rows:
		st.first = &r
		return st, nil
	case err := <-st.end:
		st.end <- err
		return st, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// deliver calls visit for the rows. It returns the key of the last row, the number of rows and
// the error of the read, which is nil if visit returned false. It calls release.
func (st *stream) deliver(visit func(rows.Row) bool, release context.CancelFunc) (last string, n int, err error) {
	defer release()
	if st.first != nil {
		if !visit(*st.first) {
			return "", 1, nil
		}
		last, n = st.first.Key, 1
	}
	for {
		select {
		case r := <-st.rows:
			last = r.Key // before visit, which owns the row
			n++
			if !visit(r) {
				return last, n, nil
			}
		case err := <-st.end:
			return last, n, err
		}
	}
}
