package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// tokenLimit is the limit of the token that has the keys $LIMITED and $ROTATED.
const tokenLimit = 3

// TestTokenConcurrency checks that the limit of requests in progress applies to all keys and tenants
// of a token together, and not to other credentials.
func TestTokenConcurrency(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			e := newEdge(t, mode, nil)
			e.holds(t)
			e.waitIdle()
			if n := testutil.ToFloat64(e.gateway.metrics.rejections.WithLabelValues("token_max_concurrent_requests")); n != 3 {
				t.Errorf("%g requests counted as rejected, want 3", n)
			}
		})
	}
}

// holds checks that exactly tokenLimit requests of the token can be in progress: no earlier request
// is still counted.
func (e *edge) holds(t *testing.T) {
	t.Helper()
	arrived, held := make(chan struct{}, tokenLimit), make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	var requests sync.WaitGroup
	defer requests.Wait()
	defer release()
	var n atomic.Int64
	e.backend.answer = func(http.ResponseWriter, *http.Request) {
		if n.Add(1) > tokenLimit { // only if the limit does not apply
			return
		}
		arrived <- struct{}{}
		<-held
	}
	limited := func(key, tenant string) []string { return bearer(key, "X-Scope-OrgID: "+tenant) }
	results := make(chan int, tokenLimit)
	for i := range tokenLimit {
		requests.Go(func() { results <- e.do(query, limited("$LIMITED", []string{"a", "b"}[i%2]), "").status })
		select {
		case <-arrived:
		case status := <-results:
			t.Fatalf("request %d of %d within the limit: status %d", i+1, tokenLimit, status)
		}
	}
	for _, key := range []string{"$LIMITED", "$ROTATED"} {
		rejectedBy(t, e.do(query, limited(key, "b"), ""), 429, "limit token_max_concurrent_requests of 3 requests", "3 requests with the API keys of this token")
	}
	rejectedBy(t, e.do(push, limited("$LIMITED", "a"), "body"), 429, "token_max_concurrent_requests")
	e.backend.answer = nil
	for _, other := range []string{"$A", "$JA"} {
		if a := e.do(query, bearer(other), ""); a.status != 200 {
			t.Errorf("%s: %d %s", other, a.status, a.body)
		}
	}
	release()
	for range tokenLimit {
		if s := <-results; s != 200 {
			t.Errorf("status %d within the limit", s)
		}
	}
}

// TestTokenConcurrencyReleased checks that a request does not count after it has ended in any way.
func TestTokenConcurrencyReleased(t *testing.T) {
	panics := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 100_000))
		panic(http.ErrAbortHandler)
	}
	request := func(version string) string {
		return "GET /prometheus/api/v1/query?query=up HTTP/" + version + "\r\nHost: edge\r\nX-Scope-OrgID: a\r\nAuthorization: Bearer $LIMITED\r\n\r\n"
	}
	for name, tt := range map[string]struct {
		answer  func(http.ResponseWriter, *http.Request)
		request string
		leaves  bool // the client, while the backend works
		lim     limits.Limits
	}{
		"an answer":           {answer: nil, request: request("1.1")},
		"an error":            {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, request: request("1.1")},
		"a panic":             {answer: panics, request: request("1.1")},
		"a panic in HTTP/1.0": {answer: panics, request: request("1.0")},
		"HTTP/1.0":            {answer: nil, request: request("1.0")},
		"the client leaves":   {request: request("1.1"), leaves: true},
		"leaves in HTTP/1.0":  {request: request("1.0"), leaves: true},
		"the tenant's limit":  {request: request("1.1"), lim: limits.Limits{MaxConcurrentRequests: 1}},
	} {
		for _, mode := range modes {
			t.Run(mode+"/"+name, func(t *testing.T) {
				e := newEdge(t, mode, nil)
				busy, arrived := make(chan struct{}), make(chan struct{}, 2*tokenLimit)
				free := sync.OnceFunc(func() { close(busy) })
				t.Cleanup(free)
				if tt.lim.MaxConcurrentRequests > 0 { // a request of another token reaches this limit
					e.tenants.set("a", tt.lim)
					e.backend.answer = func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-busy }
					go e.do(query, bearer("$A"), "")
					kit.Receive(t, "another request is in progress", arrived)
				}
				if e.backend.answer = tt.answer; tt.leaves {
					e.backend.answer = func(_ http.ResponseWriter, r *http.Request) {
						arrived <- struct{}{}
						<-r.Context().Done()
					}
				}
				for range 2 * tokenLimit {
					c, err := net.Dial("tcp", e.addr)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.WriteString(c, e.fillAll(tt.request)); err != nil {
						t.Fatal(err)
					}
					if tt.leaves {
						kit.Receive(t, "the request is at the backend", arrived)
					} else {
						one := make([]byte, 1)
						_, _ = c.Read(one)
					}
					_ = c.Close()
					kit.Until(t, "the request is done", func() bool { return e.served.under.Load() == int64(tt.lim.MaxConcurrentRequests) })
				}
				free()
				e.waitIdle()
				e.tenants.set("a", limits.Default())
				e.holds(t)
			})
		}
	}
}

// fillAll replaces the names of credentials in a request by the credentials.
func (e *edge) fillAll(request string) string {
	lines := strings.Split(request, "\r\n")
	for i := range lines {
		lines[i] = e.fill(lines[i])
	}
	return strings.Join(lines, "\r\n")
}

// TestTokenConcurrencyBackendDown checks that requests that no backend answered do not count
// afterwards.
func TestTokenConcurrencyBackendDown(t *testing.T) {
	e := newEdge(t, "proxy", nil)
	reach := e.gateway.next
	down, err := newProxy(&Options{BackendURLs: []string{"http://" + kit.FreeAddr(t)}, Logger: e.gateway.log.log, Now: e.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	e.gateway.next = down
	for range 2 * tokenLimit {
		if a := e.do(query, bearer("$LIMITED", "X-Scope-OrgID: a"), ""); a.status != 503 {
			t.Errorf("without a backend: %d %s, want 503", a.status, a.body)
		}
	}
	e.waitIdle()
	e.gateway.next = reach
	e.holds(t)
}

// TestTokenConcurrencyRace checks that, with many concurrent clients of two keys, never more requests
// than the limit are in progress, and that the others are rejected.
func TestTokenConcurrencyRace(t *testing.T) {
	eachMode(t, func(t *testing.T, e *edge) {
		var inside, most atomic.Int64
		e.backend.answer = func(http.ResponseWriter, *http.Request) {
			n := inside.Add(1)
			defer inside.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
		}
		var mu sync.Mutex
		codes := map[int]int{}
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				for range 25 {
					a := e.do(query, bearer([]string{"$LIMITED", "$ROTATED"}[i%2], "X-Scope-OrgID: a"), "")
					mu.Lock()
					codes[a.status]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if most.Load() > tokenLimit || codes[200] == 0 || codes[200]+codes[429] != 1000 {
			t.Errorf("at most %d requests in progress, limit %d; responses %v", most.Load(), tokenLimit, codes)
		}
		e.waitIdle()
		e.holds(t)
	})
}
