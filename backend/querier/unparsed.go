package querier

import (
	"context"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/policies/limits"
)

// checkLength returns an error if a query exceeds max_query_length, and nil
// otherwise. It is called before the parser, because the AST is much larger than
// the text.
func checkLength(lim *limits.Limits, text string) *limits.Exceeded {
	if most := lim.MaxQueryLength; most > 0 && len(text) > most {
		return limits.MaxQueryLength.Exceeded(lim, int64(len(text)))
	}
	return nil
}

// unparsed is a query that was rejected before it was parsed. Exec returns the
// error.
type unparsed struct {
	engine *Engine
	text   string
	err    error
}

var _ promql.Query = (*unparsed)(nil)

// Exec implements promql.Query.
func (u *unparsed) Exec(context.Context) *promql.Result { return u.engine.failed(u.err) }

// Close implements promql.Query.
func (u *unparsed) Close() {}

// Cancel implements promql.Query.
func (u *unparsed) Cancel() {}

// Statement implements promql.Query.
func (u *unparsed) Statement() parser.Statement { return nil }

// String implements promql.Query.
func (u *unparsed) String() string { return u.text }

// Stats implements promql.Query.
func (u *unparsed) Stats() *stats.Statistics {
	return &stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(false)}
}
