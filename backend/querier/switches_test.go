package querier

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSwitches checks that instant queries, range queries and parts are parsed and evaluated with
// the switches of their request, while other requests use other switches.
func TestSwitches(t *testing.T) {
	b := newBed(t)
	b.engine = NewEngine(NewParsers(MaxOperators), slog.New(slog.DiscardHandler), nil)
	var all sync.WaitGroup
	for _, tt := range []struct {
		text string
		on   limits.Limits
		want string // part of the answer, only with the switch; "" if it is an error without it
	}{
		{`limitk(1, up)`, limits.Limits{PromQLExperimentalFunctions: true}, ""},
		{`up + fill(0) up`, limits.Limits{PromQLBinopFillModifiers: true}, ""},
		{`up or größe.b`, limits.Limits{PromQLUnquotedUTF8Names: true}, ""},
		{`label_replace(-up, "x", "$1", "__name__", "(.*)")`, limits.Limits{PromQLDelayedNameRemoval: true}, `x="up"`},
	} {
		for range 4 {
			all.Go(func() {
				for _, lim := range []limits.Limits{{}, tt.on} {
					on := lim != limits.Limits{}
					ctx := WithLimits(b.as("a"), &lim)
					first, last := b.now.Add(-2*time.Hour), b.now.Add(-time.Hour)
					instant, err1 := b.engine.NewInstantQuery(ctx, b.q, nil, tt.text, last)
					ranged, err2 := b.engine.NewRangeQuery(ctx, b.q, nil, tt.text, first, last, time.Minute)
					part, err3 := b.engine.NewPartQuery(ctx, b.q, nil, tt.text, split.Times{Start: first, End: last, Step: time.Minute},
						split.Range{Start: first.UnixMilli(), End: last.UnixMilli()}, nil)
					for i, err := range []error{err1, err2, err3} {
						if (err == nil) != (on || tt.want != "") {
							t.Errorf("%s switched on %v: error of query %d: %v", tt.text, on, i, err)
						}
						if err != nil {
							continue
						}
						q := []promql.Query{instant, ranged, part}[i]
						res := q.Exec(ctx)
						if res.Err != nil || strings.Contains(res.String(), tt.want) != on && tt.want != "" {
							t.Errorf("%s switched on %v: query %d: %.200s", tt.text, on, i, res)
						}
						q.Close()
					}
				}
			})
		}
	}
	all.Wait()
}

// TestDifferentEngines checks that each set of switches has its own engine, which is reused.
func TestDifferentEngines(t *testing.T) {
	b := newBed(t)
	one, two := limits.Limits{PromQLDelayedNameRemoval: true}, limits.Limits{PromQLTypeAndUnitLabels: true}
	if b.engine.engine(&one) == b.engine.engine(&two) || b.engine.engine(&one) == b.engine.engine(&limits.Limits{}) {
		t.Error("tenants with different switches have the same engine")
	}
	if e := b.engine.engine(&one); e != b.engine.engine(&one) {
		t.Error("an engine is created for each query")
	}
}
