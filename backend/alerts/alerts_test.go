package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/notifier"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/egress"
)

// manager is an Alertmanager of a test, and the http.RoundTripper that reaches it.
type manager struct {
	mu       sync.Mutex
	status   map[string]int // by address; default 200
	received map[string][]notifier.Alert
	requests int
	hold     chan struct{} // requests wait until it is closed; may be nil
}

func newManager() *manager {
	return &manager{status: map[string]int{}, received: map[string][]notifier.Alert{}}
}

// RoundTrip implements http.RoundTripper.
func (m *manager) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if m.hold != nil {
		select {
		case <-m.hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	status := m.status[r.URL.Host]
	if status == 0 {
		status = http.StatusOK
	}
	if status == http.StatusOK {
		var list []notifier.Alert
		if err := json.Unmarshal(body, &list); err != nil || r.URL.Path != "/am/api/v2/alerts" || r.Header.Get("Content-Type") != "application/json" {
			status = http.StatusBadRequest
		}
		m.received[r.URL.Host] = append(m.received[r.URL.Host], list...)
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Body: io.NopCloser(strings.NewReader("answer")), Request: r}, nil
}

func (m *manager) set(address string, status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status[address] = status
}

// names returns the sorted names of the alerts that an address has received. Resolved alerts have the suffix "-".
func (m *manager) names(address string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, a := range m.received[address] {
		name := a.Labels.Get("alertname")
		if !a.EndsAt.After(time.Now()) {
			name += "-"
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// world is a Sender with its Alertmanagers.
type world struct {
	*Sender
	t        *testing.T
	managers *manager
	registry *prometheus.Registry
}

func newWorld(t *testing.T, o Options, configs ...Config) *world {
	w := &world{t: t, managers: newManager(), registry: prometheus.NewRegistry()}
	for _, c := range configs {
		target, err := NewTarget(c, (&net.Dialer{}).DialContext, dns{}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		target.client = &http.Client{Transport: w.managers}
		o.Targets = append(o.Targets, target)
	}
	o.Now, o.Logger, o.Registerer = time.Now, slog.New(slog.DiscardHandler), w.registry
	w.Sender = New(o)
	return w
}

// dns is a Resolver with two names.
type dns struct{}

// LookupNetIP implements Resolver.
func (dns) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if host != "two" {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")}, nil
}

// LookupSRV implements Resolver.
func (dns) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	if name != "_web._tcp.am" {
		return "", nil, errors.New("no such name")
	}
	return "", []*net.SRV{{Target: "am-0.", Port: 9093}, {Target: "am-1.", Port: 9094}}, nil
}

func active(name string) *notifier.Alert {
	return &notifier.Alert{Labels: labels.FromStrings("alertname", name), StartsAt: time.Now(), EndsAt: time.Now().Add(4 * time.Minute)}
}

func resolved(name string) *notifier.Alert {
	return &notifier.Alert{Labels: labels.FromStrings("alertname", name), StartsAt: time.Now().Add(-time.Minute), EndsAt: time.Now()}
}

// dropped returns the number of alerts that were dropped for a reason.
func (w *world) dropped(reason string) int {
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "pallium_ruler_alerts_dropped_total" && value(m, "reason") == reason {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	w.t.Fatalf("there is no counter for the reason %s", reason)
	return 0
}

func value(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// TestTenants checks that the alerts of a tenant are sent to the Alertmanagers that name the tenant, or else to those that name
// none.
func TestTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{}, Config{URL: "http://general:1/am"}, Config{URL: "http://own:1/am", Tenants: []string{"a", "b"}},
			Config{URL: "dns+http://two:1/am", Tenants: []string{"b"}}, Config{URL: "dnssrv+http://_web._tcp.am/am", Tenants: []string{"c"}})
		for _, id := range []tenant.ID{"a", "b", "c", "d"} {
			w.Send(t.Context(), id, active(string(id)))
		}
		synctest.Wait()
		for address, want := range map[string]string{"general:1": "d", "own:1": "a b", "192.0.2.1:1": "b", "192.0.2.2:1": "b", "am-0:9093": "c", "am-1:9094": "c"} {
			if got := w.managers.names(address); got != want {
				t.Errorf("%s received %q, want %q", address, got, want)
			}
		}
		if len(w.queues) != 0 {
			t.Errorf("%d queues remain after all alerts were sent", len(w.queues))
		}
		w.Close(t.Context())
	})
}

// TestUnavailable checks that alerts wait while an Alertmanager is unavailable, that only the last state of an alert is sent,
// and that expired alerts are not sent.
func TestUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{}, Config{URL: "http://up:1/am"}, Config{URL: "http://down:1/am"})
		w.managers.set("down:1", http.StatusServiceUnavailable)
		w.Send(t.Context(), "a", active("x"), active("y"))
		time.Sleep(3 * time.Minute)
		w.Send(t.Context(), "a", resolved("x"), active("z"))
		synctest.Wait()
		if got := w.managers.names("up:1"); got != "x x- y z" {
			t.Errorf("the Alertmanager that is available received %q", got)
		}
		time.Sleep(2 * time.Minute) // y has expired
		w.managers.set("down:1", http.StatusOK)
		time.Sleep(longestWait)
		synctest.Wait()
		if got := w.managers.names("down:1"); got != "x- z" {
			t.Errorf("the Alertmanager that was unavailable received %q, want the resolved x and z", got)
		}
		if n := w.dropped(reasonExpired); n != 1 {
			t.Errorf("%d alerts were dropped as expired, want 1", n)
		}
		if w.managers.requests > 30 {
			t.Errorf("%d requests in five minutes: the waiting time between them does not grow", w.managers.requests)
		}
		w.Close(t.Context())
	})
}

// TestReplacedInFlight checks that an alert whose state changes while a request with the earlier state
// fails is sent once, with the new state.
func TestReplacedInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{}, Config{URL: "http://m:1/am"})
		w.managers.hold = make(chan struct{})
		w.managers.set("m:1", http.StatusServiceUnavailable)
		w.Send(t.Context(), "a", active("x"), active("y"))
		synctest.Wait()
		w.Send(t.Context(), "a", resolved("x"))
		close(w.managers.hold)
		synctest.Wait()
		w.managers.set("m:1", http.StatusOK)
		time.Sleep(longestWait)
		if got := w.managers.names("m:1"); got != "x- y" {
			t.Errorf("%q was sent, want the resolved x and y", got)
		}
		w.Close(t.Context())
	})
}

// TestRejected checks that a rejected request is not repeated, except after status 408 or 429.
func TestRejected(t *testing.T) {
	for status, want := range map[int]string{400: "", 401: "", 404: "", 408: "x", 429: "x", 500: "x", 302: "x"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Options{}, Config{URL: "http://m:1/am"})
			w.managers.set("m:1", status)
			w.Send(t.Context(), "a", active("x"))
			synctest.Wait()
			w.managers.set("m:1", http.StatusOK)
			time.Sleep(time.Minute)
			if got := w.managers.names("m:1"); got != want {
				t.Errorf("after %d: %q was sent, want %q", status, got, want)
			}
			if n := w.dropped(reasonRejected); (n == 1) != (want == "") {
				t.Errorf("after %d: %d alerts were dropped as rejected", status, n)
			}
			w.Close(t.Context())
		})
	}
}

// TestFull checks that the oldest alerts are dropped beyond the capacity in alerts and in bytes, and that
// one tenant's queue does not use the capacity of another's.
func TestFull(t *testing.T) {
	for name, o := range map[string]Options{"alerts": {Capacity: 3}, "bytes": {MaxBytes: 3*len("alertname0") + 2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, o, Config{URL: "http://m:1/am"})
				w.managers.set("m:1", http.StatusServiceUnavailable)
				for i := range 5 {
					w.Send(t.Context(), "a", active(fmt.Sprint(i)))
					synctest.Wait() // the first alert is taken from the queue, and put back after its request has failed
				}
				w.Send(t.Context(), "b", active("b"))
				synctest.Wait()
				w.managers.set("m:1", http.StatusOK)
				time.Sleep(longestWait)
				if got := w.managers.names("m:1"); got != "2 3 4 b" {
					t.Errorf("%q was sent, want the last three alerts of a and the one of b", got)
				}
				if n := w.dropped(reasonFull); n != 2 {
					t.Errorf("%d alerts were dropped because the queue was full, want 2", n)
				}
				w.Close(t.Context())
			})
		})
	}
}

// TestClose checks that Close sends the queued alerts until its context ends, and that all goroutines end.
func TestClose(t *testing.T) {
	for name, available := range map[string]bool{"available": true, "hanging": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Options{}, Config{URL: "http://m:1/am"})
				w.managers.hold = make(chan struct{})
				for i := range 600 {
					w.Send(t.Context(), "a", active(fmt.Sprint(i)))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				closed := make(chan struct{})
				go func() { w.Close(ctx); close(closed) }()
				synctest.Wait()
				w.Send(t.Context(), "a", active("late"))
				if available {
					close(w.managers.hold)
				}
				<-closed
				sent, lost := len(w.managers.received["m:1"]), w.dropped(reasonShutdown)
				if available && (sent != 600 || lost != 1) || !available && (sent != 0 || lost != 601) {
					t.Errorf("%d alerts were sent and %d dropped", sent, lost)
				}
				w.Close(ctx)
			})
		})
	}
}

// TestNoTarget checks that alerts are counted as dropped if the tenant has no Alertmanager, or if the Alertmanager's name has
// no address.
func TestNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{}, Config{URL: "dns+http://nowhere:1/am", Tenants: []string{"a"}})
		w.Send(t.Context(), "a", active("x"))
		w.Send(t.Context(), "b", active("x"), active("y"))
		w.Send(t.Context(), "b")
		if a, b := w.dropped(reasonAddress), w.dropped(reasonNoTarget); a != 1 || b != 2 {
			t.Errorf("%d alerts without an address and %d without an Alertmanager, want 1 and 2", a, b)
		}
		w.Close(t.Context())
	})
}

// changing is a Resolver whose answer changes.
type changing struct {
	dns
	addresses []netip.Addr
	lookups   int
}

// LookupNetIP implements Resolver.
func (c *changing) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	c.lookups++
	if c.addresses == nil {
		return nil, errors.New("timeout")
	}
	return c.addresses, nil
}

// TestResolving checks how often a name is looked up, and that the previous addresses are used while look-ups fail.
func TestResolving(t *testing.T) {
	now := time.Unix(1000, 0)
	r := &changing{}
	target, err := NewTarget(Config{URL: "dns+https://am"}, (&net.Dialer{}).DialContext, r, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		wait    time.Duration
		set     string // address that the look-up returns; "" if it fails
		want    string // expected address; "" for an error
		lookups int
	}{
		{0, "", "", 1}, {time.Second, "", "", 1}, {5 * time.Second, "192.0.2.1", "192.0.2.1:443", 2},
		{29 * time.Second, "192.0.2.2", "192.0.2.1:443", 2}, {time.Second, "192.0.2.2", "192.0.2.2:443", 3},
		{30 * time.Second, "", "192.0.2.2:443", 4}, {time.Second, "", "192.0.2.2:443", 4}, {4 * time.Second, "::1", "[::1]:443", 5},
	} {
		now = now.Add(step.wait)
		r.addresses = nil
		if step.set != "" {
			r.addresses = []netip.Addr{netip.MustParseAddr(step.set)}
		}
		got, err := target.addresses(t.Context())
		if (err == nil) != (step.want != "") || strings.Join(got, " ") != step.want || r.lookups != step.lookups {
			t.Errorf("step %d: %v, %v, %d look-ups; want %q, %d look-ups", i, got, err, r.lookups, step.want, step.lookups)
		}
	}
}

func TestNewTarget(t *testing.T) {
	for url, says := range map[string]string{
		"http://m:9093": "", "https://m/prefix": "", "dns+http://m:1": "", "dnssrv+https://_web._tcp.m": "",
		"": "must be", "m:9093": "must be", "ftp://m": "must be", "http://": "must be", "http://m/?x=1": "must be", "srv+http://m": "must be",
		"http://m\x00": "not a valid URL",
	} {
		_, err := NewTarget(Config{URL: url}, nil, dns{}, time.Now)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("NewTarget(%q): %v, want %q", url, err, says)
		}
	}
	if _, err := NewTarget(Config{URL: "ftp://u:secret@m"}, nil, dns{}, time.Now); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error of a wrong URL contains its password: %v", err)
	}
	if _, err := NewTarget(Config{URL: "http://m", Tenants: []string{"a/b"}}, nil, dns{}, time.Now); err == nil {
		t.Error("NewTarget accepted a wrong tenant")
	}
	for says, c := range map[string]Config{
		"not both":                {Username: "u", PasswordFile: "f", BearerTokenFile: "f"},
		"username and password":   {Username: "u"},
		"both cert_file and":      {TLS: TLS{CertFile: "f"}},
		"no such file":            {TLS: TLS{CAFile: "/nonexistent"}},
		"username and password_f": {PasswordFile: "f", BearerTokenFile: "f"},
	} {
		c.URL = "https://m"
		if _, err := NewTarget(c, nil, dns{}, time.Now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("NewTarget(%+v): %v, want %q", c, err, says)
		}
	}
}

// TestCredentials checks the Authorization header, that redirects are not followed, and that no request is sent to a denied
// address.
func TestCredentials(t *testing.T) {
	got := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") }))
	defer server.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"":                   {},
		"Bearer s3cret":      {BearerTokenFile: secret},
		"Basic dTpzM2NyZXQ=": {Username: "u", PasswordFile: secret},
	} {
		c.URL = server.URL
		target, err := NewTarget(c, (&net.Dialer{}).DialContext, dns{}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if err := target.send(t.Context(), "a", target.base.Host, []item{{alert: active("x")}}); err != nil {
			t.Errorf("send with %+v: %v", c, err)
		} else if header := <-got; header != want {
			t.Errorf("Authorization is %q, want %q", header, want)
		}
	}
	moved := httptest.NewServer(http.RedirectHandler(server.URL, http.StatusFound))
	defer moved.Close()
	redirected, err := NewTarget(Config{URL: moved.URL}, (&net.Dialer{}).DialContext, dns{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := redirected.send(t.Context(), "a", redirected.base.Host, []item{{alert: active("x")}}); err == nil || !strings.Contains(err.Error(), server.URL) || len(got) != 0 {
		t.Errorf("send to a server that redirects: %v, %d requests arrived at the other server", err, len(got))
	}
	target, err := NewTarget(Config{URL: server.URL}, new(egress.Rules).DialContext, dns{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := target.send(t.Context(), "a", target.base.Host, []item{{alert: active("x")}}); !errors.Is(err, egress.ErrDenied) || len(got) != 0 {
		t.Errorf("send to a loopback address that is not allowed: %v, %d requests arrived", err, len(got))
	}
}
