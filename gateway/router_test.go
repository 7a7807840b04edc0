package gateway

import (
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
	"github.com/palliumhq/pallium/test/kit"
)

// TestHandlersAreBound checks that a gateway's route without a handler, and a handler
// without a route, prevent the start.
func TestHandlersAreBound(t *testing.T) {
	open := routes.Route{Name: "x", Methods: []string{"GET"}, Paths: []string{"/x"}, Kind: routes.Open, Cost: routes.Free, By: routes.Gateway}
	local := open
	local.Kind, local.Cost, local.Scope = routes.Local, routes.Request, "metrics:read"
	for _, tt := range []struct {
		name   string
		more   []routes.Route
		change func(*ownHandlers)
		err    string // "" if it starts
	}{
		{"unchanged", nil, func(*ownHandlers) {}, ""},
		{"open route", []routes.Route{open}, func(*ownHandlers) {}, "route x has no handler"},
		{"local route", []routes.Route{local}, func(*ownHandlers) {}, "route x has no handler"},
		{"open route, bound", []routes.Route{open}, func(h *ownHandlers) { h.open["x"] = (*exchange).serveHealthy }, ""},
		{"local route, bound", []routes.Route{local}, func(h *ownHandlers) { h.local["x"] = (*exchange).serveUserLimits }, ""},
		{"open route, bound as a local one", []routes.Route{open}, func(h *ownHandlers) { h.local["x"] = (*exchange).serveUserLimits }, "route x has no handler"},
		{"local route, bound as an open one", []routes.Route{local}, func(h *ownHandlers) { h.open["x"] = (*exchange).serveHealthy }, "handler x has no route"},
		{"open handler", nil, func(h *ownHandlers) { h.open["x"] = (*exchange).serveHealthy }, "handler x has no route"},
		{"local handler", nil, func(h *ownHandlers) { h.local["x"] = (*exchange).serveUserLimits }, "handler x has no route"},
		{"handler of a backend's route", nil, func(h *ownHandlers) { h.local["query"] = (*exchange).serveUserLimits }, "handler query has no route"},
		{"invalid table", []routes.Route{open, open}, func(h *ownHandlers) { h.open["x"] = (*exchange).serveHealthy }, "twice"},
	} {
		own := newOwnHandlers()
		tt.change(&own)
		_, err := newRouter(append(routes.Table(), tt.more...), own)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}

// TestLocalRoutes checks that each local route is served by its own handler.
func TestLocalRoutes(t *testing.T) {
	table := append(routes.Table(), routes.Route{Name: "x", Methods: []string{"GET"}, Paths: []string{"/api/v1/x"},
		Scope: "metrics:read", Kind: routes.Local, Cost: routes.Request, By: routes.Gateway})
	own := newOwnHandlers()
	own.local["x"] = func(x *exchange, lim *limits.Limits) *rejection { return x.text("x of " + string(x.tenant)) }
	router, err := newRouter(table, own)
	if err != nil {
		t.Fatal(err)
	}
	eachMode(t, func(t *testing.T, e *edge) {
		e.gateway.router = router
		e.check(t, row{"another local route", "GET /api/v1/x", bearer("$A"), "", 200, "", "x of a\n"})
		e.check(t, row{"without a credential", "GET /api/v1/x", nil, "", 401, "", ""})
		e.check(t, row{"the limits", "GET /api/v1/user_limits", bearer("$A"), "", 200, "", `"requests_per_second":1000`})
	})
}

// TestCosts checks that each route is limited according to its cost in the table.
func TestCosts(t *testing.T) {
	ask := func(e *edge, rt *routes.Route, method string) answer {
		return e.do(method+" "+strings.Replace(rt.Paths[0], "{name}", "job", 1), bearer("$A"), "")
	}
	each := func(t *testing.T, e *edge, what, limit string, held func(routes.Cost) bool) {
		t.Helper()
		for _, rt := range routes.Table() {
			for _, method := range rt.Methods {
				a := ask(e, &rt, method)
				if got := a.status == http.StatusTooManyRequests; got != held(rt.Cost) || got && !strings.Contains(a.body, limit) {
					t.Errorf("%s: response to %s %s with cost %s = %d %s", what, method, rt.Name, rt.Cost, a.status, a.body)
				}
			}
		}
	}
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{RequestsPerSecond: 1e-9, RequestBurst: 1})
		e.do(query, bearer("$A"), "")
		each(t, e, "requests used up", "requests_per_second", func(c routes.Cost) bool { return c != routes.Free })

		e.tenants.set("a", limits.Limits{SamplesPerSecond: 1e-9})
		e.backend.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "5")
		}
		e.do(push, bearer("$A"), "x")
		e.waitIdle()
		each(t, e, "samples used up", "samples_per_second", func(c routes.Cost) bool { return c == routes.Samples })
	})
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{MaxConcurrentRequests: 1})
		arrived, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var calls atomic.Int32
		e.backend.answer = func(http.ResponseWriter, *http.Request) {
			if calls.Add(1) == 1 {
				close(arrived)
				<-release
			}
		}
		go func() { defer close(done); e.do(query, bearer("$A"), "") }()
		kit.Receive(t, "a request is in progress", arrived)
		each(t, e, "concurrent requests used up", "max_concurrent_requests", func(c routes.Cost) bool { return c >= routes.Slot })
		close(release)
		kit.Receive(t, "the request ends", done)
	})
}

// TestPrometheusVersion checks that buildinfo has the version of Prometheus in go.mod,
// where v0.316.0 is the library of 3.16.0.
func TestPrometheusVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	major, rest, _ := strings.Cut(prometheusVersion, ".")
	minor, patch, _ := strings.Cut(rest, ".")
	if len(minor) == 1 {
		minor = "0" + minor
	}
	if want := "\tgithub.com/prometheus/prometheus v0." + major + minor + "." + patch + "\n"; !strings.Contains(string(mod), want) {
		t.Errorf("status/buildinfo has version %s, but go.mod does not contain %q", prometheusVersion, want)
	}
}

// TestSampledRejections checks that the log lines about rejections per second are
// bounded, and that the next line has the number of suppressed ones.
func TestSampledRejections(t *testing.T) {
	c := kit.NewClock(time.Unix(1000, 0))
	l := newRequestLog(nil, c.Now)
	for second := range 3 {
		for i := range rejectionsPerSecond + 5 {
			skipped, ok := l.sample()
			if ok != (i < rejectionsPerSecond) {
				t.Errorf("second %d, line %d: logged = %v", second, i, ok)
			}
			if want := map[bool]int{true: 5}[second > 0 && i == 0]; ok && skipped != want {
				t.Errorf("second %d, line %d: suppressed = %d, want %d", second, i, skipped, want)
			}
		}
		c.Advance(time.Second)
	}
}
