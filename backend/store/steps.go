package store

import (
	"context"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/timing"
)

// steppingObjects is an object store that calls progress.Step for the task in the
// context after each call and for each object of a list, and counts the reads of a
// query. During a Put the adapter reports progress itself, as it sends bytes.
type steppingObjects struct{ objects.Store }

func (s steppingObjects) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	defer progress.Step(ctx)
	return s.Store.Put(ctx, name, path, crc)
}

func (s steppingObjects) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	defer progress.Step(ctx)
	timing.Of(ctx).Read(int64(n))
	return s.Store.Get(ctx, name, off, n)
}

func (s steppingObjects) Stat(ctx context.Context, name string) (objects.Object, error) {
	defer progress.Step(ctx)
	return s.Store.Stat(ctx, name)
}

func (s steppingObjects) List(ctx context.Context, prefix string, visit func(objects.Object) bool) error {
	defer progress.Step(ctx)
	return s.Store.List(ctx, prefix, func(o objects.Object) bool {
		progress.Step(ctx)
		return visit(o)
	})
}

func (s steppingObjects) Delete(ctx context.Context, name string) error {
	defer progress.Step(ctx)
	return s.Store.Delete(ctx, name)
}
