package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// options returns options with responses that consist of the kind and the text of the error.
func options(log *bytes.Buffer) Options {
	return Options{What: "the rules", Logger: slog.New(slog.NewTextHandler(log, nil)),
		Limits: func(id tenant.ID) limits.Limits {
			l := limits.Default()
			l.MaxRuleGroups = len(id)
			return l
		},
		Write: func(w http.ResponseWriter, e *Error) {
			w.WriteHeader(e.Code)
			_, _ = fmt.Fprintf(w, "%s: %s", e.Kind, e.Text)
		}}
}

func requestOf(id tenant.ID) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/rules", http.NoBody)
	return r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}))
}

// TestErrors checks status, text and Retry-After of each kind of error, and that only errors whose texts tenants must not see
// are logged.
func TestErrors(t *testing.T) {
	lim := limits.Default()
	for _, c := range []struct {
		err   error
		code  int
		text  string
		retry bool
	}{
		{nil, 200, "", false},
		{BadRequest("x is missing"), 400, "bad_data: x is missing", false},
		{fmt.Errorf("read: %w", NotFound("no group")), 404, "not_found: no group", false},
		{Unavailable("no ruler"), 503, "unavailable: no ruler", true},
		{&Error{http.StatusTooManyRequests, "", "too many"}, 429, ": too many", true},
		{limits.MaxRuleGroups.Exceeded(&lim, 71), 400, "bad_data: ", false},
		{limits.MaxMemoryBytes.Exceeded(&lim, 71), 422, "execution: ", false},
		{memory.ErrEnded, 422, "execution: the query was ended", false},
		{&memory.TooLargeError{Need: 2, Most: 1}, 413, "bad_data: request needs at least 2 bytes", false},
		{fmt.Errorf("take: %w", memory.ErrFull), 503, "unavailable: memory for requests is exhausted; send", true},
		{errors.New("10.1.2.3 does not answer"), 503, "unavailable: the rules could not be read or written; send the request again", true},
	} {
		var log bytes.Buffer
		w := httptest.NewRecorder()
		options(&log).Handler(func(x *Exchange) error {
			if x.Tenant != "acme" || x.Limits.MaxRuleGroups != 4 || x.W != w {
				t.Errorf("the exchange is %+v", x)
			}
			return c.err
		})(w, requestOf("acme"))
		if w.Code != c.code || !strings.HasPrefix(w.Body.String(), c.text) || (w.Header().Get("Retry-After") != "") != c.retry {
			t.Errorf("%v: %d %q, Retry-After %q", c.err, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
		if internal := strings.Contains(fmt.Sprint(c.err), "10.1.2.3"); internal != strings.Contains(log.String(), "10.1.2.3") || internal != (log.Len() > 0) {
			t.Errorf("%v: logged %q", c.err, log.String())
		}
	}
}

// TestWithoutTenant checks that a request without a tenant is not served, and that the error of a request whose client has
// disconnected is not logged.
func TestWithoutTenant(t *testing.T) {
	var log bytes.Buffer
	served := false
	handler := options(&log).Handler(func(*Exchange) error {
		served = true
		return errors.New("the client has gone")
	})
	w := httptest.NewRecorder()
	handler(w, httptest.NewRequest(http.MethodGet, "/rules", http.NoBody))
	if w.Code != http.StatusUnauthorized || served {
		t.Errorf("without a tenant: %d, served %v", w.Code, served)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w = httptest.NewRecorder()
	handler(w, requestOf("acme").WithContext(tenant.NewContext(ctx, tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()})))
	if w.Code != StatusClientGone || !served || log.Len() > 0 {
		t.Errorf("after the client has gone: %d, logged %q", w.Code, log.String())
	}
}
