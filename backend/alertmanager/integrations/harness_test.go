package integrations

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request is a request that a server received.
type request struct {
	method, host, path, body string
	header                   http.Header
}

func (r request) String() string {
	return fmt.Sprintf("%s %s%s %v %s", r.method, r.host, r.path, r.header, r.body)
}

// servers are two servers with the same handler, one without TLS and one with TLS. All host names resolve to them.
type servers struct {
	plain, secure *httptest.Server
	mu            sync.Mutex
	requests      []request
	accepted      int
}

// start starts the servers. They record each request and respond with the function `answer`.
func start(t *testing.T, answer func(http.ResponseWriter, request)) *servers {
	t.Helper()
	s := &servers{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := request{r.Method, r.Host, r.URL.RequestURI(), string(body), r.Header}
		s.mu.Lock()
		s.requests = append(s.requests, got)
		s.mu.Unlock()
		answer(w, got)
	})
	count := func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.accepted++
			s.mu.Unlock()
		}
	}
	s.plain, s.secure = httptest.NewUnstartedServer(h), httptest.NewUnstartedServer(h)
	s.plain.Config.ConnState, s.secure.Config.ConnState = count, count
	s.secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.plain.Start()
	s.secure.StartTLS()
	t.Cleanup(func() {
		s.plain.CloseClientConnections()
		s.secure.CloseClientConnections()
		s.plain.Close()
		s.secure.Close()
	})
	return s
}

func (s *servers) address() string { return s.plain.Listener.Addr().String() }

// got returns the requests and the number of connections so far.
func (s *servers) got() ([]request, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests...), s.accepted
}

// dial returns a function that connects to one of the servers, whatever the name, and checks addresses by the rules.
func (s *servers) dial(rules *egress.Rules) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		switch {
		case net.ParseIP(host) != nil:
		case port == "443":
			address = s.secure.Listener.Addr().String()
		default:
			address = s.address()
		}
		return rules.DialContext(ctx, network, address)
	}
}

// unpaced returns a pace without limits.
func unpaced() *pace.Pace {
	return pace.New(func(tenant.ID) float64 { return 0 }, prometheus.NewRegistry())
}

// executor is an Executor of Alertmanager's own templates. The race detector reports its use by two goroutines.
type executor struct {
	tmpl  *template.Template
	begun int
	limit error
}

func (e *executor) Template() *template.Template { return e.tmpl }
func (e *executor) Begin(context.Context)        { e.begun++ } // a data race if two goroutines use the executor
func (e *executor) Err() error                   { return e.limit }
func (e *executor) Elapsed() time.Duration       { return 0 }

func newExecutor() (*executor, error) {
	tmpl, err := template.FromGlobs(nil)
	if err != nil {
		return nil, err
	}
	tmpl.ExternalURL = &url.URL{Scheme: "https", Host: "pallium.example.com"}
	return &executor{tmpl: tmpl}, nil
}

func allow(t *testing.T, networks ...string) *egress.Rules {
	t.Helper()
	r, err := egress.New(networks)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// optionsOf returns options with which all host names resolve to the servers.
func optionsOf(s *servers, rules *egress.Rules) Options {
	return Options{Egress: rules, Tenant: "acme", Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
		Limiter: NewTenantLimiter(Rates{}), Pace: unpaced(),
		Templates: func() (Executor, error) { return newExecutor() }, dial: s.dial(rules)}
}

// load returns the only receiver of a configuration.
func load(t *testing.T, text string) config.Receiver {
	t.Helper()
	c, err := config.Load(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c.Receivers[0]
}

// receiver returns a receiver. list is the YAML of its integrations, such as `sns_configs:` with one item.
func receiver(t *testing.T, list string) config.Receiver {
	t.Helper()
	return load(t, "global: {smtp_from: alerts@example.com, http_config: {tls_config: {insecure_skip_verify: true}}}\n"+
		"route: {receiver: one}\nreceivers:\n- name: one\n  "+strings.ReplaceAll(list, "\n", "\n  ")+"\n")
}

// build builds the integrations of a receiver, which must be valid.
func build(t *testing.T, r config.Receiver, o Options) []notify.Integration {
	t.Helper()
	is, err := Build(r, o)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b)) + "\n"
}

// flush returns the context of a flush of an alert group.
func flush(t *testing.T) context.Context {
	ctx := notify.WithGroupKey(t.Context(), `{}:{alertname="Down"}`)
	ctx = notify.WithReceiverName(ctx, "one")
	ctx = notify.WithGroupLabels(ctx, model.LabelSet{"alertname": "Down"})
	ctx = notify.WithRouteLabels(ctx, model.LabelSet{})
	return notify.WithNotificationReason(ctx, notify.ReasonFirstNotification)
}

func firing() *alert.Alert {
	return &alert.Alert{Alert: model.Alert{
		Labels:      model.LabelSet{"alertname": "Down", "cluster": "eu", "severity": "critical"},
		Annotations: model.LabelSet{"summary": "it is down"},
		StartsAt:    time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC),
		EndsAt:      time.Now().Add(time.Hour),
	}}
}
