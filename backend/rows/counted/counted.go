// Package counted is a row store that counts what is read of it: a cost that does
// not depend on how busy the machine is.
package counted

import (
	"context"
	"sync/atomic"

	"github.com/palliumhq/pallium/backend/rows"
)

// Store is a row store that counts.
type Store struct {
	rows.Store
	Reads atomic.Int64 // calls of ReadRows
	Cells atomic.Int64 // of the rows that they visited
}

var _ rows.Store = (*Store)(nil)

// New returns a store over another one that has counted nothing yet.
func New(s rows.Store) *Store { return &Store{Store: s} }

// ReadRows implements rows.Store.
func (s *Store) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	s.Reads.Add(1)
	return s.Store.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
		s.Cells.Add(int64(len(r.Cells)))
		return visit(r)
	})
}
