package alertmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
)

// TestCostly checks that requests are rejected if their regular expressions or lists would take too much memory.
func TestCostly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		routes := strings.Repeat("  - {continue: true}\n", 300)
		s.configure("acme", "route:\n  receiver: none\n  routes:\n"+routes+"receivers: [{name: none}]\n")
		silence := func(value string) string {
			text, _ := json.Marshal(map[string]any{"matchers": []any{map[string]any{"name": "a", "value": value, "isRegex": true}},
				"startsAt": "2000-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z", "createdBy": "x", "comment": "y"})
			return string(text)
		}
		large := strings.Repeat(".{1000}", 1500)
		for i, c := range []struct {
			method, path, body string
			code               int
			want               string
		}{
			{http.MethodPost, "/api/v2/silences", silence(large), 400, "too large"},
			{http.MethodPost, "/api/v2/silences", silence("prod-.*|(dev|test)-[0-9]+"), 200, ""},
			{http.MethodGet, "/api/v2/silences?filter=" + url.QueryEscape(`a=~"`+large+`"`), "", 400, "filter"},
			{http.MethodGet, "/api/v2/alerts?receiver=" + large, "", 400, "receiver"},
			{http.MethodGet, "/api/v2/alerts?receiver_matchers=" + url.QueryEscape(`a=~"`+large+`"`), "", 400, "receiver_matchers"},
			{http.MethodGet, "/api/v2/alerts?filter=" + url.QueryEscape(`a=~"x.*"`), "", 200, "[]"},
			{http.MethodGet, "/api/v2/alerts?filter=" + url.QueryEscape(`a="x("`), "", 200, "[]"},
			{http.MethodPost, "/api/v2/alerts?x=1", `[{"labels":{"alertname":"Q"}}]`, 200, ""},
		} {
			if code, text := s.call(0, "acme", c.method, c.path, c.body); code != c.code || !strings.Contains(text, c.want) {
				t.Errorf("%d: %d %.300s, want %d %s", i, code, text, c.code, c.want)
			}
		}
		var many []map[string]string
		for i := range 60 {
			many = append(many, one(fmt.Sprint("A", i)))
		}
		s.fire("acme", time.Hour, many...)
		if code, text := s.call(0, "acme", http.MethodGet, "/api/v2/alerts/groups", ""); code != 400 || !strings.Contains(text, "continue") {
			t.Errorf("61 alerts for 301 routes: %d %.300s", code, text)
		}
	})
}

// TestLostResolution checks that a replica that has not received the resolution of an alert does not send that the alert
// fires.
func TestLostResolution(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3)
		defer s.close()
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(15 * time.Second)
		s.want("fires", "A firing")
		all := s.replicas
		s.replicas = all[:2]
		s.fire("acme", 0, one("A"))
		s.replicas = all
		time.Sleep(2 * time.Minute)
		s.want("two replicas have the resolution", "A resolved")
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(30 * time.Second)
		s.want("it fires again", "A firing")
	})
}

// TestRetried checks that a stored configuration that could not be compiled is retried, and that the status contains the
// error.
func TestRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		compile, broken := s.replicas[0].opts.Compile, true
		s.replicas[0].opts.Compile = func(id tenant.ID, settings index.AlertmanagerSettings) (*Compiled, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if broken {
				return nil, errAway
			}
			return compile(id, settings)
		}
		s.fire("acme", time.Hour, one("A"))
		if _, text := s.call(0, "acme", http.MethodGet, "/api/v2/status", ""); !strings.Contains(text, "does not run: "+errAway.Error()) {
			t.Errorf("status: %s", text)
		}
		time.Sleep(5 * time.Minute)
		s.want("broken")
		s.mu.Lock()
		broken = false
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		s.want("mended", "A firing")
	})
}

// TestSame checks that the dispatcher is replaced if a changed configuration is stored, and is kept if the same one is stored
// again.
func TestSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		before := s.replicas[0].tenants["acme"].instance.current.Load().dispatcher
		s.configure("acme", testConfig)
		if s.replicas[0].tenants["acme"].instance.current.Load().dispatcher != before {
			t.Error("the same configuration has a new dispatcher")
		}
		s.configure("acme", testConfig+"\n")
		if s.replicas[0].tenants["acme"].instance.current.Load().dispatcher == before {
			t.Error("the changed configuration has the dispatcher of the previous one")
		}
	})
}

// TestStopAndGet checks that an instance that is started while the tenant's previous instance stops is in the list, so that
// it is stopped later.
func TestStopAndGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		a := s.replicas[0]
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		for range 50 {
			var wg sync.WaitGroup
			slot := a.list()["acme"]
			wg.Go(func() { a.stop("acme", slot, func(*instance) bool { return true }) })
			wg.Go(func() {
				if _, err := a.get(context.Background(), "acme"); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			in, err := a.get(context.Background(), "acme")
			if err != nil || a.list()["acme"].instance != in {
				t.Fatalf("the instance is not in the list: %v", err)
			}
		}
		time.Sleep(time.Minute)
		s.close() // synctest fails the test if a goroutine of an instance still runs
	})
}
