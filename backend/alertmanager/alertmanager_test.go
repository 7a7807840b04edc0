package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

func one(name string) map[string]string { return map[string]string{"alertname": name} }

// want checks the notifications that were sent since the last call.
func (s *site) want(what string, want ...string) {
	s.t.Helper()
	synctest.Wait()
	if got := s.take(); !slices.Equal(got, want) {
		s.t.Errorf("%s: sent %q, want %q", what, got, want)
	}
}

// TestLife checks the notifications of a tenant with three replicas: of grouped, repeated, resolved, silenced and
// inhibited alerts, and after a restart of all replicas.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3)
		defer s.close()
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(5 * time.Second)
		s.want("the first alert", "A firing")
		time.Sleep(time.Minute)
		s.want("a minute later")
		s.fire("acme", time.Hour, map[string]string{"alertname": "A", "i": "2"})
		time.Sleep(12 * time.Second)
		s.want("another alert of the group", "A firing, A2 firing")
		s.fire("acme", 0, map[string]string{"alertname": "A", "i": "2"})
		time.Sleep(12 * time.Second)
		s.want("resolved", "A firing, A2 resolved")

		body := fmt.Sprintf(`{"matchers":[{"name":"alertname","value":"B","isRegex":false}],"startsAt":%q,"endsAt":%q,"createdBy":"x","comment":"y"}`,
			time.Now().UTC().Format(time.RFC3339), time.Now().Add(10*time.Minute).UTC().Format(time.RFC3339))
		code, text := s.call(1, "acme", http.MethodPost, "/api/v2/silences", body)
		if code != http.StatusOK {
			t.Fatalf("silence: %d %s", code, text)
		}
		s.fire("acme", time.Hour, one("B"))
		time.Sleep(30 * time.Second)
		s.want("a silenced alert")
		for i := range s.replicas {
			if _, text := s.call(i, "acme", http.MethodGet, "/api/v2/silences", ""); !strings.Contains(text, `"state":"active"`) {
				t.Errorf("replica %d does not show the silence: %s", i, text)
			}
		}

		for i, stop := range slices.Clone(s.stop) {
			stop()
			s.start(i)
		}
		s.fire("acme", time.Hour, one("A"), one("B"))
		time.Sleep(30 * time.Second)
		s.want("after a restart of all replicas")

		var id struct{ SilenceID string }
		if err := json.Unmarshal([]byte(text), &id); err != nil {
			t.Fatal(err)
		}
		if code, text := s.call(2, "acme", http.MethodDelete, "/api/v2/silence/"+id.SilenceID, ""); code != http.StatusOK {
			t.Errorf("end the silence: %d %s", code, text)
		}
		time.Sleep(15 * time.Second)
		s.want("after the end of the silence", "B firing")

		s.fire("acme", time.Hour, map[string]string{"alertname": "C", "severity": "critical", "zone": "z"})
		time.Sleep(5 * time.Second)
		s.fire("acme", time.Hour, map[string]string{"alertname": "D", "severity": "warning", "zone": "z"})
		time.Sleep(20 * time.Second)
		s.want("an inhibited alert", "C firing")
		time.Sleep(time.Hour)
		if got := s.take(); len(got) < 2 {
			t.Errorf("after the repeat interval: sent %q", got)
		}
	})
}

// TestCrashed checks that the remaining replicas send notifications after the replica that sends first was stopped, and
// then after all replicas but one were stopped.
func TestCrashed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3)
		defer s.close()
		s.configure("acme", testConfig)
		for round, name := range []string{"A", "B", "C"} {
			s.fire("acme", time.Hour, one(name))
			time.Sleep(15 * time.Second)
			s.want(name, name+" firing")
			if round < 2 {
				s.stop[round]()
				s.stop[round] = func() {}
				s.replicas = append(slices.Clone(s.replicas[:0]), s.replicas...)
				s.replicas[round] = s.replicas[2]
			}
		}
	})
}

// TestStoreAway checks that, while the row store cannot be reached, notifications are sent and new silences are rejected.
func TestStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(5 * time.Second)
		s.want("with the row store", "A firing")
		s.mu.Lock()
		*s.away[0] = true
		s.mu.Unlock()
		s.fire("acme", time.Hour, one("B"))
		body := `{"matchers":[{"name":"a","value":"b","isRegex":false}],"startsAt":"2000-01-01T00:00:00Z","endsAt":"2100-01-01T00:00:00Z","createdBy":"x","comment":"y"}`
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/silences", body); code != 0 || !strings.Contains(text, errAway.Error()) {
			t.Errorf("a silence without the row store: %d %s", code, text)
		}
		if code, text := s.call(0, "other", http.MethodGet, "/api/v2/status", ""); code != 0 {
			t.Errorf("a tenant that is not loaded: %d %s, want an error", code, text)
		}
		time.Sleep(time.Minute)
		s.want("without the row store", "B firing")
		s.mu.Lock()
		*s.away[0] = false
		s.mu.Unlock()
		time.Sleep(time.Minute)
		s.want("when it is back")
	})
}

// TestConfigurations checks that an invalid configuration does not replace the previous one, and that each tenant has a
// configuration of its own.
func TestConfigurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		s.fire("acme", time.Hour, one("A"))
		s.fire("other", time.Hour, one("O"))
		time.Sleep(5 * time.Second)
		s.want("only acme has receivers", "A firing")
		s.configure("acme", "route: {")
		s.fire("acme", time.Hour, one("B"))
		time.Sleep(5 * time.Second)
		s.want("an invalid configuration", "B firing")
		s.configure("other", "route: {")
		if code, text := s.call(0, "other", http.MethodGet, "/api/v2/status", ""); code != http.StatusOK || !strings.Contains(text, "none") {
			t.Errorf("other: %d %s", code, text)
		}
		s.configure("other", strings.ReplaceAll(testConfig, "group_wait: 1s", "group_wait: 0s"))
		time.Sleep(5 * time.Second)
		s.want("a valid configuration", "O firing")
		if code, text := s.call(0, "acme", http.MethodGet, "/api/v2/status", ""); code != http.StatusOK || !strings.Contains(text, Version) ||
			strings.Contains(text, "smtp") || strings.Contains(text, "hook.example") || !strings.Contains(text, "group_by") {
			t.Errorf("status: %d %s", code, text)
		}
	})
}

// TestLimits checks that the limits of alerts, groups and silences are enforced.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		s.mu.Lock()
		s.limits.MaxAlertmanagerAlerts, s.limits.MaxAlertmanagerGroups, s.limits.MaxAlertmanagerSilences = 2, 1, 1
		s.mu.Unlock()
		s.fire("acme", time.Hour, one("A"), one("B"))
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/alerts", `[{"labels":{"alertname":"C"}}]`); code != 429 ||
			!strings.Contains(text, "max_alertmanager_alerts is 2") {
			t.Errorf("a third alert: %d %s", code, text)
		}
		s.fire("acme", time.Hour, one("A")) // known already, so that it is accepted
		time.Sleep(5 * time.Second)
		if got := s.take(); len(got) != 1 {
			t.Errorf("with one group: sent %q", got)
		}
		s.mu.Lock()
		s.limits.MaxAlertmanagerAlerts, s.limits.MaxAlertmanagerAlertBytes = 0, 1000
		s.mu.Unlock()
		long := map[string]string{"alertname": "L", "x": strings.Repeat("x", 1000)}
		body, _ := json.Marshal([]map[string]any{{"labels": long}})
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/alerts", string(body)); code != 429 || !strings.Contains(text, "max_alertmanager_alert_bytes") {
			t.Errorf("a long alert: %d %s", code, text)
		}
		silence := `{"matchers":[{"name":"a","value":"b","isRegex":false}],"startsAt":"2000-01-01T00:00:00Z","endsAt":"2100-01-01T00:00:00Z","createdBy":"x","comment":"y"}`
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/silences", silence); code != 200 {
			t.Errorf("silence: %d %s", code, text)
		}
		const want = `"the tenant has max_alertmanager_silences (1) silences already; silences that expired in the last 5 days count as well: `
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/silences", silence); code != 400 || !strings.HasPrefix(text, want) {
			t.Errorf("another silence: %d %s", code, text)
		}
	})
}

// TestFailing checks that a notification to a failing receiver is retried at the next flush.
func TestFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3)
		defer s.close()
		s.configure("acme", testConfig)
		s.mu.Lock()
		s.fails = errors.New("rejected")
		s.mu.Unlock()
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(5 * time.Second)
		s.want("while it fails")
		s.mu.Lock()
		s.fails = nil
		s.mu.Unlock()
		time.Sleep(20 * time.Second)
		s.want("when it works", "A firing")
	})
}

// TestManyTenants checks that the instances of 1,000 tenants notify, are reconfigured and stop without leaving goroutines
// behind. It runs half of them at a time: each has eight goroutines, and the race detector ends a process with 8,128.
func TestManyTenants(t *testing.T) {
	const tenants, atOnce = 1000, 500
	before := runtime.NumGoroutine()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		for first := 0; first < tenants; first += atOnce {
			for i := range atOnce {
				id := tenant.ID(fmt.Sprintf("t%d", first+i))
				s.configure(id, testConfig)
				s.fire(id, 20*time.Second, one("A"))
				if i%10 == 0 {
					s.call(0, id, http.MethodGet, "/api/v2/status", "")
					s.configure(id, strings.ReplaceAll(testConfig, "10s", "20s"))
				}
			}
			time.Sleep(5 * time.Second)
			if got := len(s.take()); got != atOnce {
				t.Errorf("%d notifications, want %d", got, atOnce)
			}
			if n := len(s.replicas[0].list()); n != atOnce {
				t.Errorf("%d tenants run, want %d", n, atOnce)
			}
			time.Sleep(30 * time.Minute)
			s.take()
			if n := len(s.replicas[0].list()); n != 0 {
				t.Errorf("%d tenants run half an hour later, want none", n)
			}
		}
		s.close()
	})
	if after := runtime.NumGoroutine(); after > before+5 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

// TestDeleted checks that the Alertmanager of a deleted tenant stops.
func TestDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("gone", testConfig)
		s.fire("gone", time.Hour, one("A"))
		time.Sleep(30 * time.Second)
		if list := s.replicas[0].list(); len(list) != 0 {
			t.Errorf("tenants %v run", list)
		}
	})
}

// TestUnknownPath checks that paths outside of Alertmanager's API are rejected.
func TestUnknownPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		if code, text := s.call(0, "acme", http.MethodGet, "/api/v2/nothing", ""); code != http.StatusNotFound {
			t.Errorf("%d %s", code, text)
		}
		if _, err := s.replicas[0].Serve(context.Background(), "acme", &Request{Method: http.MethodGet, Path: "/other"}); err == nil {
			t.Error("another prefix is accepted")
		}
	})
}

// TestUnrecorded checks that the resolution of an alert is sent once if a replica with a claim disappeared, which may have
// sent that the alert fires.
func TestUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2)
		defer s.close()
		s.configure("acme", testConfig)
		ix, err := index.New(index.Options{Rows: s.rows, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		key := schema.NotificationKey("acme", `{}:{alertname="A"}`, "hook", "webhook", 0)
		lost := schema.Notification{Holder: "gone/1", Number: 1, Sequence: 1, Content: 1, Expires: time.Now().Add(time.Hour).UnixMilli()}
		if ok, err := ix.Alertmanagers.ReplaceNotification(t.Context(), key, schema.Notification{}, lost); !ok || err != nil {
			t.Fatal(ok, err)
		}
		for range 5 {
			s.fire("acme", -time.Second, one("A"))
			time.Sleep(time.Minute)
		}
		s.want("after a lost claim", "A resolved")
		if row, err := ix.Alertmanagers.Notification(t.Context(), key); err != nil || row.Holder != "" || row.Number != 2 {
			t.Errorf("the row is %+v, %v", row, err)
		}
	})
}
