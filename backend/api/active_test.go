package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/test/kit"
)

// TestEndedByOperator checks on every route that reads data that a read is listed with its parameters,
// and that the response is 422 with the reason if an operator ends it.
func TestEndedByOperator(t *testing.T) {
	b := newReading(t, 64<<20)
	for _, c := range allReadRoutes() {
		if c.onlyParses {
			continue
		}
		var seen active.Query
		b.source.set(func(ctx context.Context) error {
			if list := b.running.List(); len(list) == 1 {
				seen = list[0]
				b.running.End(seen.ID)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		r := c.request(b, "")
		w := do(b.h, as("acme", r))
		if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "ended by an operator") {
			t.Errorf("%s: %d %s", c, w.Code, w.Body)
		}
		if seen.Tenant != "acme" || seen.Path != r.URL.Path || !seen.Running || (seen.Text == "") != (c.noText || c.pattern == "read") {
			t.Errorf("%s: listed as %+v", c, seen)
		}
		b.source.set(nil)
		b.clean(c.String())
	}
}

// TestEndedWhileItWaits checks that a read that waits for a slot is listed and can be ended.
func TestEndedWhileItWaits(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries = 1
	leave, err := b.gate.Enter(context.Background(), "acme", &b.lim)
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.h.ServeHTTP(w, as("acme", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query_range?query=m&start=1&end=2&step=1", nil)))
	}()
	kit.Until(t, "the query waits", func() bool { return b.waiting() == 1 })
	list := b.running.List()
	if len(list) != 1 || list[0].Running || list[0].Start != "1" || list[0].End != "2" || list[0].Step != "1" || list[0].Text != "m" {
		t.Fatalf("listed as %+v", list)
	}
	b.running.End(list[0].ID)
	<-done
	if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "ended by an operator") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestSlowQueryLog checks the log entry of a slow query.
func TestSlowQueryLog(t *testing.T) {
	b := newReading(t, 64<<20)
	b.source.set(func(context.Context) error {
		b.now = b.now.Add(time.Minute)
		return nil
	})
	end := b.now
	w := do(b.h, as("acme", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query?query=count(m)&time="+end.UTC().Format(time.RFC3339), nil)))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	for _, want := range []string{`msg="slow query"`, "tenant=acme", "path=/prometheus/api/v1/query", "query=count(m)", "duration=1m0s", "status=200",
		"samples_read=500", "peak_samples=50", "queue_time=0s", "engine_time=0s", "querier_wall_time=1m0s", "cached_steps=0"} {
		if log := b.log.String(); !strings.Contains(log, want) {
			t.Errorf("the log has no %s: %s", want, log)
		}
	}
}
