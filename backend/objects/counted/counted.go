// Package counted provides an object store that counts reads, as a measure of cost that does
// not depend on the load of the machine.
package counted

import (
	"context"
	"sync/atomic"

	"github.com/palliumhq/pallium/backend/objects"
)

// Store counts the reads of an object store.
type Store struct {
	objects.Store
	Gets  atomic.Int64 // calls of Get
	Bytes atomic.Int64 // bytes requested by them
}

var _ objects.Store = (*Store)(nil)

// New returns a Store for s with counters at zero.
func New(s objects.Store) *Store { return &Store{Store: s} }

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	s.Gets.Add(1)
	s.Bytes.Add(int64(n))
	return s.Store.Get(ctx, name, off, n)
}
