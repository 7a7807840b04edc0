package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// TestClientGone checks on every route that reads or deletes data that a request whose client closes
// the connection has status 499, whatever error that causes, and is not logged as a failure.
func TestClientGone(t *testing.T) {
	for _, failure := range []error{context.Canceled, fmt.Errorf("zone-1: %w: %w", peers.ErrTooFew, context.Canceled), errors.New("stream was reset")} {
		b := newReading(t, 64<<20)
		for _, c := range allReadRoutes() {
			if c.onlyParses && !c.deletes() {
				continue
			}
			ctx, leave := context.WithCancel(context.Background())
			b.source.set(func(ctx context.Context) error {
				leave()
				<-ctx.Done()
				return failure
			})
			r := c.request(b, "")
			w := do(b.h, as("acme", r.WithContext(ctx)))
			if w.Code != statusClientGone || w.Header().Get("Retry-After") != "" {
				t.Errorf("%v, %s: %d %v %s", failure, c, w.Code, w.Header(), w.Body)
			}
			b.source.set(nil)
			b.clean(c.String())
		}
		if got := b.log.String(); got != "" {
			t.Errorf("%v: the log has\n%s", failure, got)
		}
	}
}

// TestClientGoneInQueue checks the status if the client closes the connection while its request waits for a
// slot.
func TestClientGoneInQueue(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries = 1
	leaveGate, err := b.gate.Enter(context.Background(), "acme", &b.lim)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range allReadRoutes() {
		ctx, leave := context.WithCancel(context.Background())
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.h.ServeHTTP(w, as("acme", c.request(b, "").WithContext(ctx)))
		}()
		kit.Until(t, c.String()+" waits", func() bool { return b.waiting() == 1 })
		leave()
		<-done
		if w.Code != statusClientGone {
			t.Errorf("%s: %d %s", c, w.Code, w.Body)
		}
	}
	leaveGate()
	if got := b.log.String(); got != "" {
		t.Errorf("the log has\n%s", got)
	}
}

// TestPushClientGone checks that a write whose client closes the connection has status 499, and a
// write that another process cancels has status 503: after a 4xx, senders drop their samples.
func TestPushClientGone(t *testing.T) {
	var log kit.Buffer
	var ctx context.Context
	var leave func()
	h := newAPI(Options{
		Push: func(ctx context.Context, _ *series.Batch) (series.Outcome, error) {
			leave()
			return series.Outcome{}, fmt.Errorf("%w: %w", peers.ErrTooFew, context.Canceled)
		},
		SeriesCount:     func(context.Context, tenant.ID) (int, error) { leave(); return 0, peers.ErrTooFew },
		CleanTombstones: func(context.Context, tenant.ID) error { leave(); return peers.ErrTooFew },
		Limits:          func(tenant.ID) limits.Limits { return limits.Default() }, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	for _, gone := range []bool{true, false} {
		for _, r := range []*http.Request{
			pushRequest("/api/v1/push", bodyV1(t), nil),
			httptest.NewRequest(http.MethodGet, "/api/v1/user_stats", nil),
			httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/admin/tsdb/clean_tombstones", nil),
		} {
			ctx, leave = context.WithCancel(r.Context())
			want := statusClientGone
			if cancel := leave; !gone {
				defer cancel()
				leave, want = func() {}, http.StatusServiceUnavailable
			}
			w := do(h, as("a", r.WithContext(ctx)))
			if w.Code != want || (w.Header().Get("Retry-After") == "") != gone {
				t.Errorf("client gone %v, %s: %d %v", gone, r.URL.Path, w.Code, w.Header())
			}
		}
		if logged := log.String() != ""; logged == gone {
			t.Errorf("client gone %v: the log has %q", gone, log.String())
		}
	}
}

// TestCanceledElsewhere checks that a query that another process canceled has status 503: 499 is
// only for a client that closed the connection.
func TestCanceledElsewhere(t *testing.T) {
	for _, err := range []error{context.Canceled, promql.ErrQueryCanceled("query execution")} {
		b := newReading(t, 64<<20)
		b.source.set(func(context.Context) error { return err })
		for _, c := range allReadRoutes() {
			if c.onlyParses && !c.deletes() {
				continue
			}
			if w := do(b.h, as("acme", c.request(b, ""))); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Errorf("%v, %s: %d %v %s", err, c, w.Code, w.Header(), w.Body)
			}
		}
	}
}
