package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// blocking has the stores of a gateway. The store named by `at` responds only when the client is gone.
type blocking struct {
	tenants Tenants
	auth    Authenticator
	at      string // "keys", "limits" or "readiness"; with another text nothing blocks
	reached chan struct{}
}

// wait returns nil unless the request blocks at this store. Then it returns an error when ctx is done.
func (b *blocking) wait(ctx context.Context, at string) error {
	if b.at != at {
		return nil
	}
	close(b.reached)
	<-ctx.Done()
	return errors.New("the store is not available")
}

func (b *blocking) Limits(ctx context.Context, id tenant.ID) (limits.Limits, error) {
	if err := b.wait(ctx, "limits"); err != nil {
		return limits.Limits{}, err
	}
	return b.tenants.Limits(ctx, id)
}

func (b *blocking) Authenticate(ctx context.Context, a authn.Attempt) (authn.Proof, error) {
	if err := b.wait(ctx, "keys"); err != nil {
		return authn.Proof{}, err
	}
	return b.auth.Authenticate(ctx, a)
}

// codes returns the number of requests by status code.
func codes(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "pallium_gateway_requests_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "code" {
					out[l.GetValue()] += m.Counter.GetValue()
				}
			}
		}
	}
	return out
}

// TestClientGone checks that a request whose client closes the connection before the response
// counts as 499 and not as a failure, at every step of its processing and whatever error followed.
func TestClientGone(t *testing.T) {
	for _, mode := range modes {
		for _, at := range []string{"keys", "limits", "a backend that fails", "a backend that is slow", "readiness"} {
			t.Run(mode+"/"+at, func(t *testing.T) {
				b := &blocking{at: at, reached: make(chan struct{})}
				reg := prometheus.NewRegistry()
				e := newEdge(t, mode, func(o *Options) {
					b.tenants, b.auth = o.Tenants, o.Auth
					o.Tenants, o.Auth, o.Registerer = b, b, reg
					o.Ready = func(ctx context.Context) error { return b.wait(ctx, "readiness") }
				})
				e.backend.answer = func(w http.ResponseWriter, r *http.Request) {
					close(b.reached)
					<-r.Context().Done()
					if at == "a backend that fails" {
						http.Error(w, "too few ingesters", http.StatusServiceUnavailable)
					}
				}
				request := query + " HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer " + e.cred["$A"] + "\r\n\r\n"
				if at == "readiness" {
					request = "GET /ready HTTP/1.1\r\nHost: edge\r\n\r\n"
				}
				c, err := net.Dial("tcp", e.addr)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := fmt.Fprint(c, request); err != nil {
					t.Fatal(err)
				}
				<-b.reached
				_ = c.Close()
				kit.Until(t, "the request is counted", func() bool { return len(codes(t, reg)) > 0 })
				e.waitIdle()
				const want = "499"
				if got := codes(t, reg); len(got) != 1 || got[want] != 1 {
					t.Errorf("requests by code: %v, want one of %s", got, want)
				}
				if log := e.logs.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") || !strings.Contains(log, "status="+want) {
					t.Errorf("the log lacks status=%s, or has a warning or an error:\n%s", want, log)
				}
			})
		}
	}
}

// resetting is a body whose client resets the stream.
type resetting struct{ reset func() }

func (r resetting) Read([]byte) (int, error) {
	r.reset()
	return 0, errors.New("stream was reset")
}

// TestClientGoneInBody checks that a request counts as 499 if the client resets the HTTP/2 stream
// within the body, and as 400 if the body is broken.
func TestClientGoneInBody(t *testing.T) {
	e := newEdge(t, "direct", nil)
	for _, gone := range []bool{true, false} {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		body := resetting{func() {}}
		want := http.StatusBadRequest
		if gone {
			body.reset, want = cancel, statusClientGone
		}
		r := httptest.NewRequest(http.MethodPost, "/api/v1/push", body).WithContext(ctx)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		r.Header.Set("Authorization", "Bearer "+e.cred["$A"])
		w := httptest.NewRecorder()
		e.gateway.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("client gone %v: %d %s, want %d", gone, w.Code, w.Body, want)
		}
	}
}

// TestClientStillThere checks that a failure is a 5xx while the client waits for the
// response.
func TestClientStillThere(t *testing.T) {
	for _, mode := range modes {
		reg := prometheus.NewRegistry()
		e := newEdge(t, mode, func(o *Options) { o.Registerer = reg })
		e.backend.answer = func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "too few ingesters", http.StatusServiceUnavailable)
		}
		if a := e.do(query, bearer("$A"), ""); a.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", mode, a.status)
		}
		e.waitIdle()
		if got := codes(t, reg); len(got) != 1 || got["503"] != 1 {
			t.Errorf("%s: requests by code: %v", mode, got)
		}
	}
}
