// Package counted is an object store that counts what is read of it: a cost that
// does not depend on how busy the machine is.
package counted

import (
	"context"
	"sync/atomic"

	"github.com/palliumhq/pallium/backend/objects"
)

// Store is an object store that counts.
type Store struct {
	objects.Store
	Gets  atomic.Int64 // calls of Get
	Bytes atomic.Int64 // that they asked for
}

var _ objects.Store = (*Store)(nil)

// New returns a store over another one that has counted nothing yet.
func New(s objects.Store) *Store { return &Store{Store: s} }

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	s.Gets.Add(1)
	s.Bytes.Add(int64(n))
	return s.Store.Get(ctx, name, off, n)
}
