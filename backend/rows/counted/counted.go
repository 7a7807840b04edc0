// Package counted provides a row store that counts reads, as a measure of cost that does
// not depend on the load of the machine.
package counted

import (
	"context"
	"sync/atomic"

	"github.com/palliumhq/pallium/backend/rows"
)

// Store counts the reads of a row store.
type Store struct {
	rows.Store
	Reads atomic.Int64 // calls of ReadRows
	Cells atomic.Int64 // cells of the rows visited
}

var _ rows.Store = (*Store)(nil)

// New returns a Store for s with counters at zero.
func New(s rows.Store) *Store { return &Store{Store: s} }

// ReadRows implements rows.Store.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	s.Reads.Add(1)
	return s.Store.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
		s.Cells.Add(int64(len(r.Cells)))
		return visit(r)
	})
}
