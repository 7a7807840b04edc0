package index

import (
	"context"

	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/timing"
)

// steppingRows is a row store that calls progress.Step for the task in the context after
// each call and for each row of a read, and counts the reads of a query.
type steppingRows struct{ rows.Store }

func (s steppingRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	defer progress.Step(ctx)
	timing.Of(ctx).Read(0)
	return s.Store.ReadRows(ctx, ranges, f, func(r rows.Row) bool {
		progress.Step(ctx)
		return visit(r)
	})
}

func (s steppingRows) Mutate(ctx context.Context, m rows.RowMutation) error {
	defer progress.Step(ctx)
	return s.Store.Mutate(ctx, m)
}

func (s steppingRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	defer progress.Step(ctx)
	return s.Store.MutateRows(ctx, ms)
}

func (s steppingRows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	defer progress.Step(ctx)
	return s.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

func (s steppingRows) DeletePrefix(ctx context.Context, prefix string) error {
	defer progress.Step(ctx)
	return s.Store.DeletePrefix(ctx, prefix)
}
