// Package retried provides an object store whose reads of objects are retried and hedged; see
// package retry. Writes are not retried: after a failed write, its caller decides what to do.
package retried

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/retry"
)

// Kinds of reads. The time of a ranged read depends on its size: one p95 for all of them would
// hedge every large one.
const (
	small  = "get_small"  // up to 256 KiB
	medium = "get_medium" // up to 2 MiB
	large  = "get_large"
	stat   = "stat"
)

const (
	smallBytes  = 256 << 10
	mediumBytes = 2 << 20
	// A larger read is not hedged: its caller has accounted for the memory of one response.
	// The reads of queries are not larger (store.maxCoalesce), except for a single huge block.
	hedgedBytes = 8 << 20

	// A try without a response is canceled after stall plus a second for each MiB of a
	// ranged read.
	stall          = 10 * time.Second
	bytesPerSecond = 1 << 20
)

// Options configure a Store.
type Options struct {
	// Permanent reports whether a retry would fail with the same error of the adapter.
	// The errors of package objects are always permanent. If Permanent is nil, no
	// other error is.
	Permanent  func(error) bool
	Registerer prometheus.Registerer // nil: none
}

// Store retries and hedges the reads of an object store that does not retry them itself. List
// passes through: only an adapter can continue a listing where it failed.
type Store struct {
	objects.Store
	reads *retry.Reads
}

var _ objects.Store = (*Store)(nil)

// New returns a Store for s.
func New(s objects.Store, o Options) *Store {
	permanent := func(err error) bool {
		for _, e := range []error{objects.ErrNotFound, objects.ErrExists, objects.ErrInvalid, objects.ErrClosed} {
			if errors.Is(err, e) {
				return true
			}
		}
		return o.Permanent != nil && o.Permanent(err)
	}
	return &Store{Store: s, reads: retry.New(retry.Options{Store: "objects", Kinds: []string{small, medium, large, stat},
		Permanent: permanent, Registerer: o.Registerer})}
}

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	read := retry.Read{Kind: large, Stall: stall + time.Duration(n/bytesPerSecond)*time.Second, Alone: n > hedgedBytes}
	switch {
	case n <= smallBytes:
		read.Kind = small
	case n <= mediumBytes:
		read.Kind = medium
	}
	b, release, err := retry.Do(ctx, s.reads, read, func(ctx context.Context) ([]byte, error) { return s.Store.Get(ctx, name, off, n) })
	if err != nil {
		return nil, err
	}
	release()
	return b, nil
}

// Stat implements objects.Store.
func (s *Store) Stat(ctx context.Context, name string) (objects.Object, error) {
	o, release, err := retry.Do(ctx, s.reads, retry.Read{Kind: stat, Stall: stall},
		func(ctx context.Context) (objects.Object, error) { return s.Store.Stat(ctx, name) })
	if err != nil {
		return objects.Object{}, err
	}
	release()
	return o, nil
}
