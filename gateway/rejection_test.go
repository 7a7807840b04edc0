package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/conn"
)

// TestUnavailableSaysWhen checks that responses with status 503 that do not come from the backend
// have Retry-After: those of a process that is not ready, and those to a request whose
// header was rejected for lack of memory.
func TestUnavailableSaysWhen(t *testing.T) {
	g := newEdge(t, "direct", func(o *Options) {
		o.Ready = func(context.Context) error { return errors.New("starting") }
	}).gateway
	why := &conn.Rejection{Status: http.StatusServiceUnavailable, Reason: "header_memory", Text: "too many requests", Retry: time.Second}
	for name, serve := range map[string]http.HandlerFunc{
		"not ready":                  g.ServeHTTP,
		"no memory for long headers": func(w http.ResponseWriter, r *http.Request) { g.Reject(w, r, why) },
	} {
		w := httptest.NewRecorder()
		serve(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/ready", nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d %v, want 503 with Retry-After", name, w.Code, w.Header())
		}
	}
}
