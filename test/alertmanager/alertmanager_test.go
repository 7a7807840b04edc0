// Package alertmanager tests Alertmanagers as processes of a cluster. A receiver gets exactly one notification for each
// group of alerts, and at least one while rulers and Alertmanagers are killed or the row store cannot be reached.
package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	chaos "github.com/palliumhq/pallium/test/chaos/cluster"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const config = `alertmanager_config: |
  route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 5s, repeat_interval: 4h}
  receivers: [{name: hook, webhook_configs: [{url: "%s/hook"}]}]
  inhibit_rules: [{source_matchers: [severity=critical], target_matchers: [severity=warning], equal: [zone]}]
`

// receiver is a webhook receiver that counts the notifications of each alert name, by status.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	count map[string]int
	hold  map[string]chan struct{} // by alert: closed when a notification arrives, which then gets no response
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{count: map[string]int{}, hold: map[string]chan struct{}{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var n struct {
			Status      string
			GroupLabels map[string]string
		}
		body, err := io.ReadAll(q.Body)
		if err == nil {
			err = json.Unmarshal(body, &n)
		}
		if err != nil {
			t.Error(err)
		}
		name := n.GroupLabels["alertname"]
		r.mu.Lock()
		r.count[name+" "+n.Status]++
		held := r.hold[name]
		delete(r.hold, name)
		r.mu.Unlock()
		if held != nil {
			close(held)
			<-q.Context().Done()
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) got(key string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count[key]
}

// system is a cluster with a ruler and three Alertmanagers.
type system struct {
	*receiver // nil if the test has its own
	t         *testing.T
	c         *cluster.Cluster
	key       string // of the tenant acme
}

// newSystem starts a cluster. The function `through` returns the address at which an Alertmanager reaches the row store.
func newSystem(t *testing.T, r *receiver, through func(alertmanager, store string) string) *system {
	t.Helper()
	binary := os.Getenv("REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	s := &system{t: t, receiver: r}
	c, err := cluster.New(cluster.Options{Dir: t.TempDir(), Free: true, Rulers: 1, Alertmanagers: 3,
		Config: "self_monitoring: {disabled: true}\negress: {allow: [127.0.0.1]}\nlimits: {min_rule_interval: 1s}\n",
		Through: func(name, address string) string {
			process, ok := strings.CutSuffix(name, "-bigtable")
			if !ok || !strings.HasPrefix(name, "alertmanager-") {
				return address
			}
			return through(process, address)
		},
		Binaries: cluster.Binaries{Pallium: programs.Binary(t, "PALLIUM"), Redis: binary,
			Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range alertmanagers() {
				t.Logf("== %s\n%s", name, c.Log(name))
			}
		}
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	s.c = c
	if s.key, err = c.NewToken(ctx, "acme", "metrics:read", "rules:read", "rules:write", "alerts:read", "alerts:write"); err != nil {
		t.Fatal(err)
	}
	return s
}

func alertmanagers() []string { return []string{"alertmanager-1", "alertmanager-2", "alertmanager-3"} }

// do sends a request with the key, and fails the test unless the status is `want`.
func (s *system) do(method, path, contentType, body string, want int) string {
	s.t.Helper()
	code, text := programs.Do(s.t, method, s.c.Edges[0]+path, s.key, contentType, strings.NewReader(body))
	if code != want {
		s.t.Fatalf("%s %s: %d %s, want %d", method, path, code, text, want)
	}
	return text
}

// fire sends an alert that ends in an hour, or now.
func (s *system) fire(labels string, resolved bool) {
	s.t.Helper()
	ends := time.Now().Add(time.Hour)
	if resolved {
		ends = time.Now()
	}
	kit.Eventually(s.t, 30*time.Second, func() error {
		code, text := programs.Do(s.t, http.MethodPost, s.c.Edges[1]+"/alertmanager/api/v2/alerts", s.key, "application/json",
			strings.NewReader(fmt.Sprintf(`[{"labels":{%s},"startsAt":"2026-01-01T00:00:00Z","endsAt":%q}]`, labels, ends.UTC().Format(time.RFC3339Nano))))
		if code != http.StatusOK {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
}

// receivers returns the receivers with their last attempts to notify.
func (s *system) receivers() string {
	s.t.Helper()
	return s.do(http.MethodGet, "/api/v1/alerts/receivers", "", "", http.StatusOK)
}

// arrives waits until a notification with the key has arrived.
func (s *system) arrives(key string, within time.Duration) {
	s.t.Helper()
	kit.Eventually(s.t, within, func() error {
		if s.got(key) == 0 {
			return fmt.Errorf("no notification %q", key)
		}
		return nil
	})
}

// exactly checks the number of notifications with the key.
func (s *system) exactly(what, key string, want int) {
	s.t.Helper()
	if n := s.got(key); n != want {
		s.t.Errorf("%s: %d notifications %q, want %d", what, n, key, want)
	}
}

func (s *system) signal(sig syscall.Signal, names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := s.c.Stop(s.t.Context(), name, sig); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *system) start(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := s.c.Start(s.t.Context(), name); err != nil {
			s.t.Fatal(err)
		}
	}
}

// flushes is a few group intervals. A duplicate notification would arrive within this time.
const flushes = 15 * time.Second

// TestAlertmanagers checks the notifications of alerts of a rule and of a client: one for each group without a failure,
// none while an alert is silenced, and at least one while processes are killed or the row store cannot be reached.
func TestAlertmanagers(t *testing.T) {
	var stores []*chaos.Proxy
	s := newSystem(t, newReceiver(t), func(_, store string) string {
		p := chaos.NewProxy(t, "127.0.0.1", store, 1)
		stores = append(stores, p)
		return p.Addr
	})
	s.do(http.MethodPost, "/api/v1/alerts", "application/yaml", fmt.Sprintf(config, s.URL), http.StatusCreated)
	rules := "name: g\ninterval: 2s\nrules:\n- {alert: Rule, expr: vector(1), labels: {severity: critical, zone: a}}\n"
	s.do(http.MethodPost, "/prometheus/config/v1/rules/n", "application/yaml", rules, http.StatusAccepted)

	// Without a failure, there is one notification for each group.
	s.arrives("Rule firing", 90*time.Second)
	for i := range 5 {
		s.fire(fmt.Sprintf(`"alertname":"Client%d"`, i), false)
	}
	s.fire(`"alertname":"Inhibited","severity":"warning","zone":"a"`, false)
	s.do(http.MethodPost, "/alertmanager/api/v2/silences", "application/json", fmt.Sprintf(
		`{"matchers":[{"name":"alertname","value":"Silenced","isRegex":false}],"startsAt":%q,"endsAt":%q,"createdBy":"t","comment":"c"}`,
		time.Now().UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)), http.StatusOK)
	s.fire(`"alertname":"Silenced"`, false)
	for i := range 5 {
		s.arrives(fmt.Sprintf("Client%d firing", i), 20*time.Second)
	}
	s.fire(`"alertname":"Client0"`, true)
	s.arrives("Client0 resolved", 20*time.Second)
	time.Sleep(flushes)
	s.exactly("without a failure", "Rule firing", 1)
	for i := range 5 {
		s.exactly("without a failure", fmt.Sprintf("Client%d firing", i), 1)
	}
	s.exactly("resolved", "Client0 resolved", 1)
	s.exactly("silenced", "Silenced firing", 0)
	s.exactly("inhibited", "Inhibited firing", 0)
	if text := s.receivers(); !strings.Contains(text, `"lastNotifySuccess":"`) || !strings.Contains(text, `"warnings":[]`) {
		t.Errorf("receivers: %s", text)
	}

	// One Alertmanager and the ruler are killed.
	s.signal(syscall.SIGKILL, "alertmanager-1", "ruler-1")
	if text := s.receivers(); !strings.Contains(text, "1 of 3 replicas of the Alertmanager did not respond") {
		t.Errorf("receivers without a replica: %s", text)
	}
	s.fire(`"alertname":"OneKilled"`, false)
	s.arrives("OneKilled firing", time.Minute)
	s.start("ruler-1", "alertmanager-1")

	// All Alertmanagers are killed while a notification is being sent.
	held := make(chan struct{})
	s.mu.Lock()
	s.hold["AllKilled"] = held
	s.mu.Unlock()
	s.fire(`"alertname":"AllKilled"`, false)
	select {
	case <-held:
	case <-time.After(time.Minute):
		t.Fatal("no notification AllKilled")
	}
	s.signal(syscall.SIGKILL, alertmanagers()...)
	before := s.got("AllKilled firing")
	s.start(alertmanagers()...)
	s.fire(`"alertname":"AllKilled"`, false)
	s.fire(`"alertname":"Silenced"`, false)
	s.fire(`"alertname":"Client1"`, false)
	kit.Eventually(t, 2*time.Minute, func() error {
		if s.got("AllKilled firing") <= before {
			return fmt.Errorf("the notification AllKilled was not sent again")
		}
		return nil
	})
	time.Sleep(flushes)
	s.exactly("after all were killed", "Rule firing", 1)
	s.exactly("after all were killed", "Client1 firing", 1)
	s.exactly("after all were killed", "Silenced firing", 0)
	s.exactly("after all were killed", "AllKilled firing", before+1)
	s.exactly("one killed", "OneKilled firing", 1)

	// The row store cannot be reached.
	for _, p := range stores {
		p.Set(chaos.Hang)
	}
	s.fire(`"alertname":"StoreAway"`, false)
	s.arrives("StoreAway firing", 2*time.Minute)
	for _, p := range stores {
		p.Set(chaos.Pass)
	}
	t.Logf("without the row store: %d notifications", s.got("StoreAway firing"))
	s.fire(`"alertname":"StoreBack"`, false)
	s.arrives("StoreBack firing", 2*time.Minute)
	time.Sleep(flushes)
	s.exactly("after the row store was back", "StoreBack firing", 1)
	if n := s.got("Rule resolved"); n != 0 {
		t.Errorf("the alert of the rule was resolved %d times", n)
	}
}
