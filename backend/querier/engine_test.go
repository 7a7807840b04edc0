package querier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/policies/limits"
)

const day = 24 * time.Hour

// TestQueryLimits checks that a query beyond a limit is created and fails when
// it is executed, with an error that names the limit and its value.
func TestQueryLimits(t *testing.T) {
	week := limits.Limits{MaxQueryRange: limits.Duration(7 * day)}
	tests := []struct {
		name       string
		lim        limits.Limits
		text       string
		span, step time.Duration // 0: an instant query
		limit      string        // "" when the query is within the limits
		value, use string
	}{
		{"range", week, `up`, 8 * day, time.Hour, "max_query_range", "1w", "8d"},
		{"at the range", week, `up`, 7 * day, time.Hour, "", "", ""},
		{"selector", week, `rate(up[8d])`, 0, 0, "max_query_range", "1w", "8d"},
		{"range and selector", week, `rate(up[2d])`, 6 * day, time.Hour, "max_query_range", "1w", "8d"},
		{"offset", week, `up offset 8d`, 0, 0, "max_query_range", "1w", "8d"},
		{"offset of a range", week, `rate(up[1d] offset 7d)`, 0, 0, "max_query_range", "1w", "8d"},
		{"offset within", week, `rate(up[1d] offset 5d)`, 0, 0, "", "", ""},
		{"offset into the future", week, `up offset -8d`, 0, 0, "", "", ""},
		{"subquery", week, `max_over_time(up[8d:1h])`, 0, 0, "max_query_range", "1w", "8d"},
		{"subquery with offset", week, `max_over_time(up[1d:1h] offset 7d)`, 0, 0, "max_query_range", "1w", "8d"},
		{"subquery and offset inside", week, `max_over_time((up offset 4d)[4d:1h])`, 0, 0, "max_query_range", "1w", "8d"},
		{"nested", week, `max_over_time(rate(up[3d])[5d:1h])`, 0, 0, "max_query_range", "1w", "8d"},
		{"nested twice", week, `max_over_time(max_over_time(rate(up[2d])[3d:1h])[3d:1h])`, 0, 0, "max_query_range", "1w", "8d"},
		{"one side of many", week, `sum(up) / sum(up) + (1 + abs(-(up offset 8d)))`, 0, 0, "max_query_range", "1w", "8d"},
		{"at a time", week, `up @ 1`, 0, 0, "max_query_range", "1w", "y"},
		{"at the least time", week, `up @ -9223372036854775`, 0, 0, "max_query_range", "1w", "y"},
		{"at a time inside a subquery", week, `max_over_time((up @ 1)[1h:1m])`, 0, 0, "max_query_range", "1w", "y"},
		{"subquery at a time", week, `max_over_time(up[1h:1m] @ 1)`, 0, 0, "max_query_range", "1w", "y"},
		{"at the end of a range", week, `rate(up[2d] @ end())`, 6 * day, time.Hour, "", "", ""},
		{"at the start of a range", week, `rate(up[2d] @ start())`, 6 * day, time.Hour, "max_query_range", "1w", "8d"},
		{"steps", limits.Limits{MaxQuerySteps: 9}, `up`, time.Hour, 6 * time.Minute, "max_query_steps", "9 steps", "has 10"},
		{"at the steps", limits.Limits{MaxQuerySteps: 10}, `up`, time.Hour, 6 * time.Minute, "", "", ""},
		{"series", limits.Limits{MaxQuerySeries: 2}, `up`, 0, 0, "max_query_series", "2 series", "more"},
		{"at the series", limits.Limits{MaxQuerySeries: 3}, `up`, 0, 0, "", "", ""},
		{"samples", limits.Limits{MaxQuerySamples: 100}, `rate(up[1h])`, 0, 0, "max_query_samples", "100 samples", "more"},
		{"samples of a range", limits.Limits{MaxQuerySamples: 100}, `up`, time.Hour, time.Minute, "max_query_samples", "100 samples", "more"},
		{"length", limits.Limits{MaxQueryLength: 3}, `up+1`, 0, 0, "max_query_length", "3 bytes", "4"},
		{"length of a range query", limits.Limits{MaxQueryLength: 3}, `up+1`, time.Hour, time.Minute, "max_query_length", "3 bytes", "4"},
		{"at the length", limits.Limits{MaxQueryLength: 4}, `up+1`, 0, 0, "", "", ""},
		{"not even parsed", limits.Limits{MaxQueryLength: 10}, strings.Repeat("(", 1<<20), 0, 0, "max_query_length", "10 bytes", "1048576"},
		{"no limits", limits.Limits{}, `max_over_time(up[100y:1y])`, 0, 0, "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t)
			b.lim = tt.lim
			var res *promql.Result
			if tt.step > 0 {
				res = b.ranged(t, tt.text, tt.span, tt.step)
			} else {
				res = b.instant(b.as("a"), t, tt.text)
			}
			var exceeded *limits.Exceeded
			if tt.limit == "" {
				if res.Err != nil {
					t.Fatalf("Exec = %v, want success", res.Err)
				}
				return
			}
			if !errors.As(res.Err, &exceeded) {
				t.Fatalf("error = %v, want one of limit %s", res.Err, tt.limit)
			}
			if exceeded.Name() != tt.limit || exceeded.Limit != tt.value || !strings.Contains(exceeded.Use, tt.use) {
				t.Errorf("error = %q, want limit %s of %s and use %s", exceeded, tt.limit, tt.value, tt.use)
			}
			want := fmt.Sprintf("# HELP pallium_querier_limited_queries_total PromQL queries that exceeded a limit, by limit.\n# TYPE pallium_querier_limited_queries_total counter\npallium_querier_limited_queries_total{limit=%q} 1\n", tt.limit)
			if err := testutil.GatherAndCompare(b.reg, strings.NewReader(want), "pallium_querier_limited_queries_total"); err != nil {
				t.Error(err)
			}
			if n := b.source.holding(); n != 0 {
				t.Errorf("%d selections are not released", n)
			}
		})
	}
}

// TestTimeout checks that the error of a query that exceeds query_timeout names
// the limit, and that a canceled request and a timeout of the request itself
// are other errors.
func TestTimeout(t *testing.T) {
	b := newBed(t)
	b.lim.QueryTimeout = limits.Duration(time.Millisecond)
	b.source.wait = func(ctx context.Context) { <-ctx.Done() }
	res := b.instant(b.as("a"), t, "up")
	var exceeded *limits.Exceeded
	if !errors.As(res.Err, &exceeded) || exceeded.Name() != "query_timeout" || exceeded.Limit != "1ms" {
		t.Errorf("error = %v, want one of limit query_timeout", res.Err)
	}
	var timeout promql.ErrQueryTimeout
	if !errors.As(res.Err, &timeout) {
		t.Errorf("error %v is not a promql.ErrQueryTimeout: the API would not respond with 503", res.Err)
	}

	b.lim.QueryTimeout = 0
	ctx, cancel := context.WithCancel(b.as("a"))
	b.source.wait = func(context.Context) { cancel() }
	res = b.instant(ctx, t, "up")
	var canceled promql.ErrQueryCanceled
	if !errors.As(res.Err, &canceled) {
		t.Errorf("canceled query: error = %v", res.Err)
	}

	ctx, cancel = context.WithTimeout(b.as("a"), time.Millisecond) // the API's timeout parameter
	defer cancel()
	b.source.wait = func(ctx context.Context) { <-ctx.Done() }
	res = b.instant(ctx, t, "up")
	if timeout = ""; !errors.As(res.Err, &timeout) || errors.As(res.Err, &exceeded) {
		t.Errorf("query with the timeout parameter: error = %v", res.Err)
	}
}

// TestEnginesAreBounded checks that the number of cached engines is limited if
// many tenants have different limits.
func TestEnginesAreBounded(t *testing.T) {
	b := newBed(t)
	for i := range 3 * maxEngines {
		b.lim.MaxQuerySamples = 1_000_000 + i
		if res := b.instant(b.as("a"), t, "up"); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if n := len(b.engine.engines); n > maxEngines {
		t.Errorf("%d engines are cached, want at most %d", n, maxEngines)
	}
}

// TestSourceFails checks that an internal error of the source is not reported
// as a limit, and that its text is logged but not returned.
func TestSourceFails(t *testing.T) {
	b := newBed(t)
	b.source.err = errors.New("open /srv/data: no such file")
	res := b.instant(b.as("a"), t, "up")
	var es promql.ErrStorage
	if !errors.As(res.Err, &es) || strings.Contains(res.Err.Error(), "/srv") {
		t.Errorf("error %v", res.Err)
	}
	if !strings.Contains(b.log.String(), "/srv/data") || !strings.Contains(b.log.String(), "tenant=a") {
		t.Errorf("the log lacks the error of the source or the tenant: %s", b.log.String())
	}
}

func TestNoTenantNoQuery(t *testing.T) {
	b := newBed(t)
	limited := WithLimits(context.Background(), &limits.Limits{})
	if _, err := b.engine.NewInstantQuery(limited, b.q, nil, "up", b.now); err == nil {
		t.Error("NewInstantQuery without a tenant succeeded")
	}
	if _, err := b.engine.NewRangeQuery(limited, b.q, nil, "up", b.now, b.now, time.Second); err == nil {
		t.Error("NewRangeQuery without a tenant succeeded")
	}
	// A query that is created with a tenant and executed without one: the storage checks the tenant, too.
	q, err := b.engine.NewInstantQuery(b.as("a"), b.q, nil, "up", b.now)
	if err != nil {
		t.Fatal(err)
	}
	if res := q.Exec(limited); res.Err == nil {
		t.Error("Exec without a tenant succeeded")
	}
}

func BenchmarkRangeQuery(b *testing.B) {
	bed := newBed(b)
	b.ReportAllocs()
	for b.Loop() {
		if res := bed.ranged(b, `sum(rate(up[5m]))`, day, time.Minute); res.Err != nil {
			b.Fatal(res.Err)
		}
	}
}
