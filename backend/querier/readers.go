package querier

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/promql"

	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// readers are the ingesters that answered all reads of a query.
type readers struct {
	mu  sync.Mutex
	any bool // there was a read
	ids map[string]bool
}

// add removes the readers that did not answer one more read.
func (r *readers) add(ids map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.any {
		r.any, r.ids = true, maps.Clone(ids)
		return
	}
	maps.DeleteFunc(r.ids, func(id string, _ bool) bool { return !ids[id] })
}

// noteReaders records which ingesters answered a read of a query.
func noteReaders(ctx context.Context, ids map[string]bool) {
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok {
		e.readers.add(ids)
	}
}

// Readers returns the ingesters that answered all reads of a query that has run.
func (e *Engine) Readers(q promql.Query) evaluations.Readers {
	var ran *evaluation
	switch q := q.(type) {
	case partQuery:
		ran = q.ran
	case *query:
		ran = q.ran
	}
	if ran == nil {
		return evaluations.Readers{}
	}
	ran.readers.mu.Lock()
	defer ran.readers.mu.Unlock()
	return evaluations.Readers{Any: ran.readers.any, IDs: slices.Sorted(maps.Keys(ran.readers.ids))}
}
