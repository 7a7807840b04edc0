package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// rejectedBy checks that a response has the status, that its body contains the parts, and that it has
// Retry-After if the status is 429.
func rejectedBy(t *testing.T, a answer, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d; body %q", a.status, status, a.body)
	}
	for _, p := range parts {
		if !strings.Contains(a.body, p) {
			t.Errorf("body %q does not contain %q", a.body, p)
		}
	}
	if status != http.StatusTooManyRequests {
		return
	}
	n, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || n < 1 {
		t.Errorf("Retry-After %q is not a positive integer", a.header.Get("Retry-After"))
	}
}

func eachMode(t *testing.T, f func(t *testing.T, e *edge)) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { f(t, newEdge(t, mode, nil)) })
	}
}

func TestRequestRate(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{RequestsPerSecond: 2, RequestBurst: 3})
		for range 3 {
			if a := e.do(query, bearer("$A"), ""); a.status != 200 {
				t.Fatalf("within the burst: %d %s", a.status, a.body)
			}
		}
		a := e.do(query, bearer("$A"), "")
		rejectedBy(t, a, 429, "requests_per_second", "2 requests/s (burst 3)", `"errorType":"too_many_requests"`)
		if a := e.do(query, bearer("$B"), ""); a.status != 200 {
			t.Fatalf("the other tenant: %d", a.status)
		}
		e.clock.Advance(time.Second)
		if a := e.do(query, bearer("$A"), ""); a.status != 200 {
			t.Fatalf("a second later: %d", a.status)
		}
		e.do(query, bearer("$A"), "")
		rejectedBy(t, e.do(query, bearer("$A"), ""), 429)
		e.tenants.set("a", limits.Limits{}) // limits change live
		if a := e.do(query, bearer("$A"), ""); a.status != 200 {
			t.Fatalf("limit lifted: %d", a.status)
		}
	})
}

func TestByteRate(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{BytesPerSecond: 100})
		big := strings.Repeat("x", 250)
		if a := e.do(push, bearer("$A"), big); a.status != 200 {
			t.Fatalf("a body beyond the burst with a full budget: %d, want 200", a.status)
		}
		a := e.do(push, bearer("$A"), "x")
		rejectedBy(t, a, 429, "bytes_per_second", "100 bytes/s", "150 bytes were sent beyond the budget")
		if strings.Count(strings.TrimSpace(a.body), "\n") != 0 || strings.HasPrefix(a.body, "{") {
			t.Errorf("response of the write path is not one line of text: %q", a.body)
		}
		if a := e.do(query, bearer("$A"), ""); a.status != 200 {
			t.Errorf("a request without a body beyond the budget: %d, want 200", a.status)
		}
		e.clock.Advance(2 * time.Second)
		if a := e.do(push, bearer("$A", "Transfer-Encoding: chunked"), "96\r\n"+big[:150]+"\r\n0\r\n\r\n"); a.status != 200 {
			t.Fatalf("chunked: %d %s", a.status, a.body)
		}
		e.waitIdle()
		rejectedBy(t, e.do(push, bearer("$A"), "x"), 429, "bytes_per_second", "100 bytes were sent beyond the budget")
	})
}

// TestUnsentBytes checks that a body that was announced and not sent costs only the bytes
// that arrived.
func TestUnsentBytes(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{BytesPerSecond: 100})
		c, err := net.Dial("tcp", e.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, query+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"+e.fill("Authorization: Bearer $READ")+"\r\n\r\nabc"); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); !strings.Contains(e.logs.String(), "body_broken"); time.Sleep(time.Millisecond) {
			_ = c.(*net.TCPConn).CloseWrite()
			if time.Now().After(deadline) {
				t.Fatal("the request was not ended")
			}
		}
		_ = c.Close()
		e.waitIdle()
		if a := e.do(push, bearer("$A"), "x"); a.status != 200 {
			t.Errorf("a later write: %d %s", a.status, a.body)
		}
	})
}

func TestSampleBudget(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{SamplesPerSecond: 100, SampleBurst: 200})
		e.backend.answer = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "500")
			w.Header().Set(headerCharged, "200")
			w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", "50")
			w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", "1000000")
			w.WriteHeader(http.StatusNoContent)
		}
		a := e.do(push, bearer("$A"), "x")
		if a.status != 204 {
			t.Fatalf("first: %d %v", a.status, a.header)
		}
		e.waitIdle() // samples may be charged after the response
		e.backend.take()
		a = e.do(push, bearer("$A"), "x")
		rejectedBy(t, a, 429, "samples_per_second", "100 samples/s (burst 200)", "550 samples were written beyond the budget")
		if n, _ := strconv.Atoi(a.header.Get("Retry-After")); n < 5 {
			t.Errorf("Retry-After = %d, want at least 5 because of the debt of 5.5 s", n)
		}
		if len(e.backend.take()) != 0 {
			t.Error("the backend was reached")
		}
		if a := e.do(query, bearer("$A"), ""); a.status != 204 {
			t.Errorf("a query is rejected because of the sample budget: %d", a.status)
		}
		e.clock.Advance(10 * time.Second)
		if a := e.do(push, bearer("$A"), "x"); a.status != 204 {
			t.Fatalf("after the debt: %d %s", a.status, a.body)
		}
	})
}

func TestBodySize(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{MaxBodyBytes: 1000, MaxDecodedBytes: 5000})
		body := strings.Repeat("x", 1001)
		if a := e.do(push, bearer("$A"), body[:1000]); a.status != 200 {
			t.Fatalf("at the limit: %d", a.status)
		}
		got := e.backend.take()[0]
		if len(got.body) != 1000 || got.header.Get(HeaderMaxDecoded) != "5000" {
			t.Errorf("the backend got %d bytes and the limit %q", len(got.body), got.header.Get(HeaderMaxDecoded))
		}
		rejectedBy(t, e.do(push, bearer("$A"), body), 413, "max_body_bytes", "1000 bytes", "1001 bytes")
		if len(e.backend.take()) != 0 {
			t.Error("a request that announced a body beyond the limit reached the backend")
		}
		rejectedBy(t, e.do(push, bearer("$A", "Transfer-Encoding: chunked"), "3e9\r\n"+body+"\r\n0\r\n\r\n"), 413,
			"max_body_bytes", "of 1000 bytes exceeded: the request body has more;")
		a := e.do("POST /prometheus/api/v1/query", bearer("$A"), body)
		rejectedBy(t, a, 413, `"errorType":"too_large_entry"`)
	})
}

func TestHardBodyLimit(t *testing.T) {
	for _, mode := range modes {
		e := newEdge(t, mode, func(o *Options) { o.Config.MaxBodyBytes = 10 })
		e.tenants.set("a", limits.Limits{})
		rejectedBy(t, e.do(push, bearer("$A"), "12345678901"), 413, "max_body_bytes", "10 bytes")
		rejectedBy(t, e.do(push, bearer("$A", "Transfer-Encoding: chunked"), "b\r\n12345678901\r\n0\r\n\r\n"), 413, "max_body_bytes")
	}
}

func TestConcurrency(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.tenants.set("a", limits.Limits{MaxConcurrentRequests: 2})
		arrived, release := make(chan struct{}, 2), make(chan struct{})
		e.backend.answer = func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }
		results := make(chan int, 2)
		for range 2 {
			go func() { results <- e.do(query, bearer("$A"), "").status }()
		}
		kit.Receive(t, "one request is in progress", arrived)
		kit.Receive(t, "two requests are in progress", arrived)
		a := e.do(query, bearer("$A"), "")
		rejectedBy(t, a, 429, "max_concurrent_requests", "2 requests", "2 requests are in progress")
		close(release)
		for range 2 {
			if s := <-results; s != 200 {
				t.Errorf("status %d", s)
			}
		}
	})
}

func TestBusy(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			e := newEdge(t, mode, func(o *Options) {
				o.Config.MaxInFlight, o.Config.MaxQueued, o.Config.QueueTimeout = 1, 1, limits.Duration(time.Millisecond)
			})
			arrived, release := make(chan struct{}, 1), make(chan struct{})
			e.backend.answer = func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }
			result := make(chan int)
			go func() { result <- e.do(query, bearer("$A"), "").status }()
			kit.Receive(t, "one request is in progress", arrived)
			a := e.do(push, bearer("$B"), "x")
			if a.status != 503 || a.header.Get("Retry-After") == "" {
				t.Errorf("status %d, header %v, want 503 with Retry-After", a.status, a.header)
			}
			close(release)
			if s := <-result; s != 200 {
				t.Errorf("the request in progress: %d", s)
			}
		})
	}
}

func TestBackendFailures(t *testing.T) {
	t.Run("panic", func(t *testing.T) {
		e := newEdge(t, "direct", nil)
		e.backend.answer = func(http.ResponseWriter, *http.Request) { panic("secret of the backend") }
		a := e.do(query, bearer("$A"), "")
		if a.status != 500 || strings.Contains(a.body, "secret") {
			t.Errorf("status %d, body %q, want 500 without the text of the panic", a.status, a.body)
		}
		if e.gateway.gate.Load() != 0 {
			t.Errorf("%d requests are in progress after the panic, want none", e.gateway.gate.Load())
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		e := newEdge(t, "proxy", func(o *Options) { o.BackendURLs = []string{"http://127.0.0.1:1"} })
		a := e.do(push, bearer("$A"), "x")
		if a.status != 503 || a.header.Get("Retry-After") == "" || strings.Contains(a.body, "127.0.0.1") {
			t.Errorf("status %d, header %v, body %q; want 503 with Retry-After and without the address", a.status, a.header, a.body)
		}
	})
	t.Run("internal headers stay inside", func(t *testing.T) {
		for _, mode := range modes {
			e := newEdge(t, mode, nil)
			e.backend.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Scope-OrgID", "a")
				w.Header().Set("X-Pallium-Policy", "unrestricted")
				w.WriteHeader(http.StatusTeapot)
			}
			a := e.do(query, bearer("$A"), "")
			if a.status != http.StatusTeapot || a.header.Get("X-Scope-OrgID")+a.header.Get("X-Pallium-Policy") != "" {
				t.Errorf("%s: %d %v", mode, a.status, a.header)
			}
		}
	})
}

// TestFailuresDelayOnly checks that valid credentials are accepted after many failures from their
// address. After a 429, Prometheus would drop the data.
func TestFailuresDelayOnly(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		for range 210 {
			if a := e.do(query, bearer("$UNKNOWN"), ""); a.status != 401 {
				t.Fatalf("status %d", a.status)
			}
		}
		for _, name := range []string{"$A", "$JA", "$B"} {
			if a := e.do(query, bearer(name), ""); a.status != 200 {
				t.Errorf("%s from the same address: %d", name, a.status)
			}
		}
	})
}

// busyAuth is an Authenticator that cannot check credentials at the moment.
type busyAuth struct{}

func (busyAuth) Authenticate(context.Context, authn.Attempt) (authn.Proof, error) {
	return authn.Proof{}, &authn.Error{Kind: authn.Throttled, Reason: "checks_busy", RetryAfter: time.Second}
}

func TestUncheckedCredentialIsUnavailable(t *testing.T) {
	e := newEdge(t, "direct", func(o *Options) { o.Auth = busyAuth{} })
	if a := e.do(push, bearer("$A"), ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, header %v, want 503 with Retry-After: the credential may be valid", a.status, a.header)
	}
}

func TestQueryIsReencoded(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		e.do("GET /api/prom/api/v1/series?match[]=%7Bb%3D%22%26%22%7D&match[]=a&end=2&bare", bearer("$A"), "")
		got := e.backend.take()
		want := "bare=&end=2&match%5B%5D=%7Bb%3D%22%26%22%7D&match%5B%5D=a"
		if len(got) != 1 || got[0].query != want || got[0].path != "/prometheus/api/v1/series" {
			t.Errorf("the backend got %+v, want query %s", got, want)
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	e := newEdge(t, "direct", func(o *Options) { o.Registerer = reg })
	e.do(push, bearer("$A"), "xyz")
	e.do("BREW /nothing", nil, "")
	e.do(query, nil, "")
	want := `
# HELP pallium_gateway_requests_total Requests that have ended, by route, method and status code.
# TYPE pallium_gateway_requests_total counter
pallium_gateway_requests_total{code="200",method="POST",route="push"} 1
pallium_gateway_requests_total{code="401",method="GET",route="query"} 1
pallium_gateway_requests_total{code="404",method="other",route="none"} 1
# HELP pallium_gateway_auth_failures_total Credentials that were not accepted, by kind and reason.
# TYPE pallium_gateway_auth_failures_total counter
pallium_gateway_auth_failures_total{kind="missing",reason="no_credential"} 1
# HELP pallium_gateway_tenant_body_bytes_total Bytes of request bodies of a tenant. Only the 100 tenants with the most requests are exported; counters of a tenant are reset after it was idle.
# TYPE pallium_gateway_tenant_body_bytes_total counter
pallium_gateway_tenant_body_bytes_total{tenant="a"} 3
`
	var err error
	for range 1000 { // counted after the response
		err = testutil.GatherAndCompare(reg, strings.NewReader(want), "pallium_gateway_requests_total",
			"pallium_gateway_auth_failures_total", "pallium_gateway_tenant_body_bytes_total")
		if err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error(err)
}

func TestOptions(t *testing.T) {
	good := func() Options {
		return Options{Auth: newEdge(t, "direct", nil).gateway.auth, Tenants: &tenants{}, BackendURLs: []string{"http://b"}}
	}
	tests := []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"valid", func(*Options) {}, ""},
		{"no auth", func(o *Options) { o.Auth = nil }, "Auth"},
		{"no backend", func(o *Options) { o.BackendURLs = nil }, "exactly one"},
		{"two backends", func(o *Options) { o.Backend = http.NotFoundHandler() }, "exactly one"},
		{"URL without scheme", func(o *Options) { o.BackendURLs = []string{"b:80"} }, "http(s)://"},
		{"URL with credentials", func(o *Options) { o.BackendURLs = []string{"http://u:p@b"} }, "http(s)://"},
		{"negative", func(o *Options) { o.Config.MaxInFlight = -1 }, "negative"},
		{"header of 1 KiB", func(o *Options) { o.Config.MaxHeaderBytes = 1 << 10 }, "max_header_bytes"},
		{"header of 2 MiB", func(o *Options) { o.Config.MaxHeaderBytes = 2 << 20 }, "max_header_bytes"},
		{"idle for an hour", func(o *Options) { o.Config.IdleTimeout = model.Duration(time.Hour) }, "idle_timeout"},
		{"proxies", func(o *Options) { o.Config.TrustedProxies = []string{"10.0.0.1"} }, "trusted_proxies"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := good()
			tt.change(&o)
			_, err := New(o)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("New: %v, want %q", err, tt.want)
			}
		})
	}
}
