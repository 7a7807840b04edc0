// Package faulty provides a row store with injected faults; see package faults.
package faulty

import (
	"context"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
)

// Store injects the faults of a plan into calls of a row store. The calls are named
// "ReadRows", "Mutate", "MutateRows", "CheckAndMutate" and "DeletePrefix".
type Store struct {
	rows.Store
	Plan *faults.Plan
}

var _ rows.Store = Store{}

// ReadRows implements rows.Store.
func (f Store) ReadRows(ctx context.Context, r []rows.Range, fl rows.Filter, visit func(rows.Row) bool) error {
	return f.Plan.Do(ctx, "ReadRows", func() error { return f.Store.ReadRows(ctx, r, fl, visit) })
}

// Mutate implements rows.Store.
func (f Store) Mutate(ctx context.Context, m rows.RowMutation) error {
	return f.Plan.Do(ctx, "Mutate", func() error { return f.Store.Mutate(ctx, m) })
}

// CheckAndMutate implements rows.Store.
func (f Store) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (held bool, err error) {
	err = f.Plan.Do(ctx, "CheckAndMutate", func() (err error) {
		held, err = f.Store.CheckAndMutate(ctx, key, c, then, otherwise)
		return err
	})
	return held, err
}

// MutateRows implements rows.Store.
func (f Store) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	all := func(err error) []error {
		errs := make([]error, len(ms))
		for k := range errs {
			errs[k] = err
		}
		return errs
	}
	switch f.Plan.Next("MutateRows") {
	case faults.None:
		return f.Store.MutateRows(ctx, ms)
	case faults.Lost:
		f.Store.MutateRows(ctx, ms)
		return all(faults.ErrInjected)
	case faults.Partial:
		half := len(ms) / 2
		f.Store.MutateRows(ctx, ms[:half])
		errs := all(faults.ErrInjected)
		clear(errs[:half])
		return errs
	case faults.Hang:
		<-ctx.Done()
		return all(ctx.Err())
	}
	return all(faults.ErrInjected)
}

// DeletePrefix implements rows.Store.
func (f Store) DeletePrefix(ctx context.Context, p string) error {
	return f.Plan.Do(ctx, "DeletePrefix", func() error { return f.Store.DeletePrefix(ctx, p) })
}
