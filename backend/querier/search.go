package querier

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/backend/memory"
)

var _ storage.Searcher = (*querier)(nil)

// Memory in bytes of a search: of a result, and of a value that Prometheus' filter keeps after
// scoring it. The filter keeps at most rememberedValues values with together rememberedText bytes.
const (
	resultBytes      = 40
	rememberedBytes  = 100
	rememberedValues = 100_000
	rememberedText   = 10 << 20
)

// SearchLabelNames implements storage.Searcher.
func (q *querier) SearchLabelNames(ctx context.Context, hints *storage.SearchHints, matchers ...*labels.Matcher) storage.SearchResultSet {
	names, _, err := q.LabelNames(ctx, enough(hints), matchers...)
	return q.search(ctx, names, hints, err)
}

// SearchLabelValues implements storage.Searcher.
func (q *querier) SearchLabelValues(
	ctx context.Context, name string, hints *storage.SearchHints, matchers ...*labels.Matcher,
) storage.SearchResultSet {
	values, _, err := q.LabelValues(ctx, name, enough(hints), matchers...)
	return q.search(ctx, values, hints, err)
}

// enough returns hints with the limit of the search if it needs only the beginning of the list, otherwise
// nil.
func enough(hints *storage.SearchHints) *storage.LabelHints {
	if hints == nil || hints.Filter != nil || hints.OrderBy == storage.OrderByValueDesc {
		return nil
	}
	return &storage.LabelHints{Limit: hints.Limit}
}

// search applies the hints to a sorted list, or returns err if it is not nil. It stops when ctx is
// done: scoring all values of a label may take long.
func (q *querier) search(ctx context.Context, list []string, hints *storage.SearchHints, err error) storage.SearchResultSet {
	if err != nil {
		return storage.ErrSearchResultSet(err)
	}
	if hints == nil {
		hints = &storage.SearchHints{}
	}
	if err := chargeSearch(ctx, list, hints); err != nil {
		return storage.ErrSearchResultSet(q.q.clarify(ctx, err))
	}
	own := *hints
	if own.Filter != nil {
		own.Filter = interruptible{ctx: ctx, Filter: own.Filter}
	}
	found := storage.ApplySearchHints(list, &own)
	if ctx.Err() != nil {
		return storage.ErrSearchResultSet(q.q.clarify(ctx, errors.Join(ctx.Err(), context.Cause(ctx))))
	}
	return storage.NewSearchResultSetFromSlice(found, nil)
}

// interruptible is a filter that accepts nothing once ctx is done.
type interruptible struct {
	ctx context.Context // Accept has no context parameter
	storage.Filter
}

// Accept implements storage.Filter.
func (f interruptible) Accept(value string) (bool, float64) {
	if f.ctx.Err() != nil {
		return false, 0
	}
	return f.Filter.Accept(value)
}

// chargeSearch charges for the results of a search and for the values that its filter keeps.
func chargeSearch(ctx context.Context, list []string, hints *storage.SearchHints) error {
	n := len(list)
	if hints.Limit > 0 {
		n = min(n, hints.Limit)
	}
	need := int64(n) * resultBytes
	if hints.Filter != nil {
		text := int64(0)
		for _, v := range list {
			text += int64(len(v))
		}
		need += int64(min(len(list), rememberedValues))*rememberedBytes + min(text, rememberedText)
	}
	return memory.FromContext(ctx).Take(need)
}
