// Package faulty provides an object store with injected faults; see package faults.
package faulty

import (
	"context"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
)

// Store injects the faults of a plan into calls of an object store. The calls are named
// "Put", "Get", "Stat", "List" and "Delete".
type Store struct {
	objects.Store
	Plan *faults.Plan
}

var _ objects.Store = Store{}

// Put implements objects.Store.
func (f Store) Put(ctx context.Context, name, path string, crc uint32) (o objects.Object, err error) {
	err = f.Plan.Do(ctx, "Put", func() (err error) { o, err = f.Store.Put(ctx, name, path, crc); return err })
	return o, err
}

// Get implements objects.Store.
func (f Store) Get(ctx context.Context, name string, off int64, n int) (b []byte, err error) {
	err = f.Plan.Do(ctx, "Get", func() (err error) { b, err = f.Store.Get(ctx, name, off, n); return err })
	return b, err
}

// Stat implements objects.Store.
func (f Store) Stat(ctx context.Context, name string) (o objects.Object, err error) {
	err = f.Plan.Do(ctx, "Stat", func() (err error) { o, err = f.Store.Stat(ctx, name); return err })
	return o, err
}

// List implements objects.Store.
func (f Store) List(ctx context.Context, p string, visit func(objects.Object) bool) error {
	return f.Plan.Do(ctx, "List", func() error { return f.Store.List(ctx, p, visit) })
}

// Delete implements objects.Store.
func (f Store) Delete(ctx context.Context, name string) error {
	return f.Plan.Do(ctx, "Delete", func() error { return f.Store.Delete(ctx, name) })
}
