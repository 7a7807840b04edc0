package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestDeletionErrors checks that the response to a deletion that is too large for the index is 400
// and names the limit, and that the text of any other error is not returned.
func TestDeletionErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		text string
	}{
		{nil, http.StatusNoContent, ""},
		{fmt.Errorf("delete series: %w", lifecycle.InvalidDeletion("the matchers have 70000 bytes, at most 65536 are possible")), http.StatusBadRequest, "at most 65536"},
		{errors.New("open /srv: secret"), http.StatusServiceUnavailable, " again"},
	} {
		a := &api{Options: Options{Now: time.Now, Gate: querier.NewGate(nil), Active: active.New(active.Options{Now: time.Now}), Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Parsers: switches.Only(parser.NewParser(parser.Options{})), Logger: slog.New(slog.DiscardHandler), Delete: func(context.Context, Deletion) error { return c.err }}}
		r := httptest.NewRequest(http.MethodPost, "/api/v1/admin/tsdb/delete_series", strings.NewReader(url.Values{"match[]": {"up"}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		a.admit(http.HandlerFunc(a.deleteSeries))(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%v: %d %s, want %d with %q", c.err, w.Code, w.Body, c.code, c.text)
		}
	}
}

// TestDeletionEndedByOperator checks the response to a deletion that an operator ended: it says so,
// and to send the request again, since it may have taken effect in part.
func TestDeletionEndedByOperator(t *testing.T) {
	running := active.New(active.Options{Now: time.Now})
	a := &api{Options: Options{Now: time.Now, Gate: querier.NewGate(nil), Active: running, Limits: func(tenant.ID) limits.Limits { return limits.Default() },
		Parsers: switches.Only(parser.NewParser(parser.Options{})), Logger: slog.New(slog.DiscardHandler),
		Delete: func(ctx context.Context, _ Deletion) error {
			running.End(running.List()[0].ID)
			return ctx.Err() // not all parts know the cause
		}}}
	w := httptest.NewRecorder()
	a.admit(http.HandlerFunc(a.deleteSeries))(w, as("a", httptest.NewRequest(http.MethodPost, "/delete_series?match[]=up", nil)))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "an operator ended the request; send it again") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestCleanTombstones checks that the request is for the caller's tenant, and that the text
// of an error is not returned.
func TestCleanTombstones(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{{nil, http.StatusNoContent}, {errors.New("open /srv: secret"), http.StatusServiceUnavailable}} {
		for _, method := range []string{http.MethodPost, http.MethodPut} {
			o := forRoles(true, false) // any backend serves it
			var asked []tenant.ID
			o.CleanTombstones = func(_ context.Context, id tenant.ID) error {
				asked = append(asked, id)
				return c.err
			}
			h, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, as("a", httptest.NewRequest(method, "/prometheus/api/v1/admin/tsdb/clean_tombstones?tenant=b&match[]=x", nil)))
			if w.Code != c.code || strings.Contains(w.Body.String(), "secret") || len(asked) != 1 || asked[0] != "a" {
				t.Errorf("%s, %v: %d %s for %v, want %d", method, c.err, w.Code, w.Body, asked, c.code)
			}
		}
	}
}
