package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/claims"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

const testConfig = `
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 10s, repeat_interval: 1h}
receivers: [{name: hook, webhook_configs: [{url: "http://hook.example"}]}]
inhibit_rules: [{source_matchers: [severity=critical], target_matchers: [severity=warning], equal: [zone]}]
`

// site is a tenant's replicas with one row store, and a receiver that records its notifications.
type site struct {
	t        *testing.T
	rows     rows.Store
	replicas []*Alertmanagers
	away     []*bool // by replica: whether the row store fails
	limits   limits.Limits
	cpus     map[tenant.ID]float64
	admits   func(ctx context.Context, delayed func(error)) error // nil if notifications are not limited
	stop     []func()

	mu    sync.Mutex
	sent  []string // notifications: the alerts with their states
	fails error
	does  func(context.Context) (retry bool, err error) // replaces the recording of a notification
}

// Notify implements notify.Notifier.
func (s *site) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	s.mu.Lock()
	does := s.does
	s.mu.Unlock()
	if does != nil {
		return does(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return false, s.fails
	}
	var list []string
	for _, a := range alerts {
		list = append(list, fmt.Sprintf("%s%s %s", a.Labels["alertname"], a.Labels["i"], a.Status()))
	}
	slices.Sort(list)
	s.sent = append(s.sent, strings.Join(list, ", "))
	return false, nil
}

// SendResolved implements notify.ResolvedSender.
func (s *site) SendResolved() bool { return true }

func (s *site) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.sent
	s.sent = nil
	return out
}

// flaky is a row store whose calls fail while `away` is set.
type flaky struct {
	rows.Store
	mu   *sync.Mutex
	away *bool
}

var errAway = errors.New("the row store does not answer")

func (f flaky) gone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.away
}

// ReadRows implements rows.Store.
func (f flaky) ReadRows(ctx context.Context, ranges []rows.Range, filter rows.Filter, visit func(rows.Row) bool) error {
	if f.gone() {
		return errAway
	}
	return f.Store.ReadRows(ctx, ranges, filter, visit)
}

// CheckAndMutate implements rows.Store.
func (f flaky) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if f.gone() {
		return false, errAway
	}
	return f.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

func newSite(t *testing.T, n int) *site {
	t.Helper()
	store, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, rows: store, limits: limits.Default(), cpus: map[tenant.ID]float64{}}
	for i := range n {
		s.start(i)
	}
	return s
}

// start starts replica i, or replaces it.
func (s *site) start(i int) {
	away := new(bool)
	ix, err := index.New(index.Options{Rows: flaky{s.rows, &s.mu, away}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		s.t.Fatal(err)
	}
	began := time.Now()
	running := func() time.Duration { return time.Since(began) }
	registry := prometheus.NewRegistry()
	c := claims.New(claims.Options{Store: ix.Alertmanagers, ID: fmt.Sprintf("r%d/%d", i, time.Now().UnixNano()), Running: running, Metrics: claims.NewMetrics(registry)})
	a := New(Options{Store: ix.Alertmanagers, Claims: c, Compile: s.compile, Fallback: func(t tenant.ID) (*Compiled, error) {
		return s.compile(t, index.AlertmanagerSettings{})
	}, Limits: func(tenant.ID) limits.Limits { s.mu.Lock(); defer s.mu.Unlock(); return s.limits }, Pace: pace.New(s.cpusOf, registry), Position: func(tenant.ID) int { return i },
		Mine:    func(context.Context, tenant.ID) (bool, error) { return true, nil },
		Deleted: func(_ context.Context, t tenant.ID) (bool, error) { return t == "gone", nil }, Running: running, Registerer: registry})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.Run(ctx) })
	wg.Go(func() { c.Run(ctx) })
	stop := func() { cancel(); wg.Wait() }
	if i < len(s.replicas) {
		s.replicas[i], s.away[i], s.stop[i] = a, away, stop
		return
	}
	s.replicas, s.away, s.stop = append(s.replicas, a), append(s.away, away), append(s.stop, stop)
}

func (s *site) cpusOf(t tenant.ID) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cpus[t]
}

// admit waits until a notification may be sent.
func (s *site) admit(ctx context.Context, delayed func(error)) error {
	s.mu.Lock()
	admits := s.admits
	s.mu.Unlock()
	if admits == nil {
		return nil
	}
	return admits(ctx, delayed)
}

func (s *site) close() {
	for _, stop := range s.stop {
		stop()
	}
	if err := s.rows.Close(); err != nil {
		s.t.Error(err)
	}
}

// compile compiles a configuration in which the site is the notifier of all integrations.
func (s *site) compile(_ tenant.ID, settings index.AlertmanagerSettings) (*Compiled, error) {
	text := "route: {receiver: none}\nreceivers: [{name: none}]\n"
	if settings.Exists {
		text = settings.Config.YAML
	}
	cfg, err := config.Load(text)
	if err != nil {
		return nil, err
	}
	static, err := template.New()
	if err != nil {
		return nil, err
	}
	static.ExternalURL = &url.URL{}
	out := &Compiled{Config: cfg, Shown: cfg, Integrations: map[string][]notify.Integration{}, Unused: map[string][]Kind{},
		Static: static, Refresh: func() {}, Close: func() {},
		Admission: func(ctx context.Context, _ string, delayed func(error)) (context.Context, func(context.Context) error) {
			return ctx, func(ctx context.Context) error { return s.admit(ctx, delayed) }
		}}
	used := map[string]bool{}
	dispatch.NewRoute(cfg.Route, nil).Walk(func(r *dispatch.Route) { used[r.RouteOpts.Receiver] = true })
	for _, r := range cfg.Receivers {
		var list []notify.Integration
		for i := range r.WebhookConfigs {
			list = append(list, notify.NewIntegration(s, s, "webhook", i, r.Name))
		}
		if used[r.Name] {
			out.Integrations[r.Name] = list
		} else {
			out.Unused[r.Name] = KindsOf(list)
		}
	}
	return out, nil
}

// call sends a request to a replica, and returns the status and the body.
func (s *site) call(replica int, id tenant.ID, method, path, body string) (int, string) {
	s.t.Helper()
	r := &Request{Method: method, Path: Prefix + path, Body: []byte(body)}
	if body != "" {
		r.ContentType = "application/json"
	}
	out, err := s.replicas[replica].Serve(context.Background(), id, r)
	if err != nil {
		return 0, err.Error()
	}
	return out.Code, string(out.Body)
}

// fire sends alerts to all replicas. They end after the time `ends` from now.
func (s *site) fire(id tenant.ID, ends time.Duration, labels ...map[string]string) {
	s.t.Helper()
	var list []map[string]any
	for _, set := range labels {
		list = append(list, map[string]any{"labels": set, "endsAt": time.Now().Add(ends).UTC().Format(time.RFC3339Nano)})
	}
	body, err := json.Marshal(list)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range s.replicas {
		if code, text := s.call(i, id, http.MethodPost, "/api/v2/alerts", string(body)); code != http.StatusOK {
			s.t.Fatalf("replica %d: %d %s", i, code, text)
		}
	}
}

// configure stores a configuration and makes the replicas read it.
func (s *site) configure(id tenant.ID, text string) {
	s.t.Helper()
	ix, err := index.New(index.Options{Rows: s.rows, Registerer: prometheus.NewRegistry()})
	if err == nil {
		err = ix.Alertmanagers.SetConfig(context.Background(), id, text)
	}
	for _, a := range s.replicas {
		err = errors.Join(err, a.Changed(context.Background(), id))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
