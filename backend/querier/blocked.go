package querier

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/lru"
	"github.com/palliumhq/pallium/policies/blocked"
	"github.com/palliumhq/pallium/policies/limits"
)

// Blocked rejects queries that are in their tenant's list (limit blocked_queries). Only queries
// that are sent to the API are checked.
type Blocked struct {
	lists *lru.Cache[string, *blocked.List] // by text
	count prometheus.Counter
}

// maxBlockedLists is the maximum number of parsed lists in the cache. Tenants of one plan usually
// share a list.
const maxBlockedLists = 500

// NewBlocked returns a Blocked.
func NewBlocked(reg prometheus.Registerer) *Blocked {
	return &Blocked{
		lists: lru.New[string, *blocked.List](maxBlockedLists, nil),
		count: promauto.With(reg).NewCounter(prometheus.CounterOpts{Name: "pallium_querier_blocked_queries_total",
			Help: "Queries that were rejected because they are in the list blocked_queries of their tenant."}),
	}
}

// BlockedError is the error of a query that the administrator has blocked.
type BlockedError struct{ line string }

func (e BlockedError) Error() string {
	const longest = 200
	if len(e.line) > longest {
		e.line = e.line[:longest] + "..."
	}
	return fmt.Sprintf("the query is blocked by the administrator: limit %s has %q; change the query, or ask the administrator",
		limits.BlockedQueries.Name(), e.line)
}

// Check returns a BlockedError if the tenant may not run a query. It does not check queries that
// exceed max_query_length: these are rejected elsewhere.
func (b *Blocked) Check(query string, lim *limits.Limits) error {
	if lim.BlockedQueries == "" || lim.MaxQueryLength > 0 && len(query) > lim.MaxQueryLength {
		return nil
	}
	list, ok := b.lists.Get(lim.BlockedQueries)
	if !ok {
		var err error
		if list, err = blocked.Parse(lim.BlockedQueries); err != nil {
			return fmt.Errorf("read limit %s: %w", limits.BlockedQueries.Name(), err) // limits are checked when they are set
		}
		b.lists.Put(lim.BlockedQueries, list)
	}
	if line, ok := list.Match(query); ok {
		b.count.Inc()
		return BlockedError{line}
	}
	return nil
}
