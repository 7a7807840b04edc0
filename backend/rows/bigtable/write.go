package bigtable

import (
	"context"

	"cloud.google.com/go/bigtable"

	"github.com/palliumhq/pallium/backend/rows"
)

// Limits of one bulk request: the emulator, with gRPC's default, accepts 4 MiB; Bigtable
// accepts 100,000 mutations.
const (
	maxBatchBytes     = 3 << 20
	maxBatchMutations = 50_000
)

// mutation converts the mutations of a row. Every cell has a timestamp set by the caller:
// the client retries only such mutations.
func mutation(ms []rows.Mutation) *bigtable.Mutation {
	out := bigtable.NewMutation()
	for _, m := range ms {
		f, q, at := string(m.Family), m.Qualifier, bigtable.Timestamp(m.Time*1000)
		switch m.Op {
		case rows.OpSet:
			out.Set(f, q, at, m.Value)
		case rows.OpDeleteCell:
			out.DeleteTimestampRange(f, q, at, at+1000)
		case rows.OpDeleteColumn:
			out.DeleteCellsInColumn(f, q)
		case rows.OpDeleteRow:
			out.DeleteRow()
		}
	}
	return out
}

// Mutate implements rows.Store.
func (s *Store) Mutate(ctx context.Context, m rows.RowMutation) error {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := rows.CheckRow(m); err != nil {
		return err
	}
	if err := s.table.Apply(ctx, m.Key, mutation(m.Mutations)); err != nil {
		return failed(ctx, "mutate row", err)
	}
	return nil
}

// MutateRows implements rows.Store.
func (s *Store) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	errs := make([]error, len(ms))
	fail := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return fail(err)
	}
	defer leave()
	if err := rows.CheckRows(ms); err != nil {
		return fail(err)
	}
	anyBad := false
	var batch []int
	bytes, mutations := 0, 0
	flush := func() {
		anyBad = s.applyBatch(ctx, ms, batch, errs) || anyBad
		batch, bytes, mutations = batch[:0], 0, 0
	}
	for i := range ms {
		if errs[i] = rows.CheckRow(ms[i]); errs[i] != nil {
			anyBad = true
			continue
		}
		size := len(ms[i].Key)
		for _, m := range ms[i].Mutations {
			size += len(m.Qualifier) + len(m.Value) + 32
		}
		if len(batch) > 0 && (bytes+size > maxBatchBytes || mutations+len(ms[i].Mutations) > maxBatchMutations) {
			flush()
		}
		batch, bytes, mutations = append(batch, i), bytes+size, mutations+len(ms[i].Mutations)
	}
	flush()
	if !anyBad {
		return nil
	}
	return errs
}

// applyBatch applies some of the rows and sets the errors of those that failed. The client
// reports a partial failure in the list of errors, with a nil error for the call.
func (s *Store) applyBatch(ctx context.Context, ms []rows.RowMutation, batch []int, errs []error) (bad bool) {
	if len(batch) == 0 {
		return false
	}
	keys, muts := make([]string, len(batch)), make([]*bigtable.Mutation, len(batch))
	for k, i := range batch {
		keys[k], muts[k] = ms[i].Key, mutation(ms[i].Mutations)
	}
	each, err := s.table.ApplyBulk(ctx, keys, muts)
	for k, i := range batch {
		cause := err
		if cause == nil && k < len(each) {
			cause = each[k]
		}
		if cause != nil {
			errs[i], bad = failed(ctx, "mutate row", cause), true
		}
	}
	return bad
}

// CheckAndMutate implements rows.Store. The client never retries a conditional mutation.
func (s *Store) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	if err := rows.CheckCondition(key, c, then, otherwise); err != nil {
		return false, err
	}
	filter := bigtable.ChainFilters(exactly(c.Family, c.Qualifier), bigtable.LatestNFilter(1))
	if c.Test == rows.HasValue {
		// The end of the range is exclusive. The value with a zero byte appended is the
		// next value after it.
		filter = bigtable.ChainFilters(filter, bigtable.ValueRangeFilter(c.Value, append(append([]byte(nil), c.Value...), 0)))
	}
	onMatch, onNone := then, otherwise
	if c.Test == rows.IsAbsent {
		onMatch, onNone = otherwise, then
	}
	if len(onMatch)+len(onNone) == 0 {
		return s.check(ctx, key, filter, c.Test == rows.IsAbsent)
	}
	matched := false
	m := bigtable.NewCondMutation(filter, orNil(onMatch), orNil(onNone))
	if err := s.table.Apply(ctx, key, m, bigtable.GetCondMutationResult(&matched)); err != nil {
		return false, failed(ctx, "check and mutate row", err)
	}
	return matched != (c.Test == rows.IsAbsent), nil
}

// check tests a condition without mutations.
func (s *Store) check(ctx context.Context, key string, filter bigtable.Filter, absent bool) (bool, error) {
	row, err := s.table.ReadRow(ctx, key, bigtable.RowFilter(filter))
	if err != nil {
		return false, failed(ctx, "check row", err)
	}
	return (len(row) > 0) != absent, nil
}

func orNil(ms []rows.Mutation) *bigtable.Mutation {
	if len(ms) == 0 {
		return nil
	}
	return mutation(ms)
}

// DeletePrefix implements rows.Store. It reads keys and deletes rows, because Bigtable's
// DropRowRange is an administrative call with a daily quota, allows one call at a time,
// and is not meant for replicated instances.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) error {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := rows.CheckPrefix(prefix); err != nil {
		return err
	}
	const most = 5000
	start := prefix
	for {
		var keys []string
		set := bigtable.NewRange(start, rows.PrefixEnd(prefix))
		if rows.PrefixEnd(prefix) == "" {
			set = bigtable.InfiniteRange(start)
		}
		filter := bigtable.ChainFilters(bigtable.CellsPerRowLimitFilter(1), bigtable.StripValueFilter())
		err := s.table.ReadRows(ctx, set, func(r bigtable.Row) bool { keys = append(keys, r.Key()); return true }, bigtable.RowFilter(filter),
			bigtable.LimitRows(most))
		if err != nil {
			return failed(ctx, "delete prefix", err)
		}
		for first := 0; first < len(keys); first += 1000 {
			part := keys[first:min(first+1000, len(keys))]
			muts := make([]*bigtable.Mutation, len(part))
			for i := range muts {
				muts[i] = bigtable.NewMutation()
				muts[i].DeleteRow()
			}
			each, err := s.table.ApplyBulk(ctx, part, muts)
			for _, e := range each {
				if err == nil {
					err = e
				}
			}
			if err != nil {
				return failed(ctx, "delete prefix", err)
			}
		}
		if len(keys) < most {
			return nil
		}
		start = keys[len(keys)-1] + "\x00"
	}
}
