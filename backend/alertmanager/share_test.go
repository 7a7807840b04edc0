package alertmanager

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/backend/alertmanager/pace"
)

// many returns the label sets of n different alerts.
func many(name string, n int) []map[string]string {
	var out []map[string]string
	for i := range n {
		out = append(out, map[string]string{"alertname": name, "i": fmt.Sprint(i)})
	}
	return out
}

// slowGroups is a configuration in which each alert is a group of its own, with a group interval of five minutes.
const slowGroups = `
route:
  {receiver: hook, group_by: ['...'], group_wait: 1s, group_interval: 5m, repeat_interval: 5m, routes: [{receiver: pager, matchers: [alertname=Page]}]}
receivers: [{name: hook, webhook_configs: [{url: "http://hook.example"}]}, {name: pager, webhook_configs: [{url: "http://pager.example"}]}]
`

// TestBusyTenant checks that a tenant whose notifications have used up their CPU time can still send and list alerts, and
// change its configuration.
func TestBusyTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.mu.Lock()
		s.cpus["acme"] = 0.25
		s.mu.Unlock()
		s.run(func(ctx context.Context) (bool, error) { // like an integration with costly templates
			turn, err := s.replicas[0].opts.Pace.Begin(ctx, "acme", pace.Notifications)
			if err != nil {
				return false, err
			}
			time.Sleep(100 * time.Millisecond)
			turn.End()
			return false, nil
		})
		s.configure("acme", slowGroups)
		s.fire("acme", time.Hour, many("A", 1000)...)
		time.Sleep(2 * time.Minute)
		began := time.Now()
		s.fire("acme", time.Hour, many("A", 1000)...)
		if code, text := s.call(0, "acme", http.MethodGet, "/api/v2/alerts", ""); code != http.StatusOK {
			t.Errorf("list alerts: %d %.200s", code, text)
		}
		s.configure("acme", strings.Replace(slowGroups, "group_interval: 5m", "group_interval: 1h", 1))
		if d := time.Since(began); d > time.Second {
			t.Errorf("the tenant waited for %s", d)
		}
		s.run(nil)
		time.Sleep(10 * time.Minute)
	})
}

// TestDeadReceiver checks that a receiver that does not respond does not delay notifications to another receiver.
func TestDeadReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", slowGroups)
		s.run(func(ctx context.Context) (bool, error) { <-ctx.Done(); return true, ctx.Err() })
		s.fire("acme", time.Hour, many("A", 2100)...)
		time.Sleep(10 * time.Second)
		began, paged := time.Now(), atomic.Int64{}
		s.run(func(context.Context) (bool, error) {
			paged.CompareAndSwap(0, int64(time.Since(began)))
			return false, nil
		})
		s.fire("acme", time.Hour, many("Page", 1)...)
		time.Sleep(time.Minute)
		if d := time.Duration(paged.Load()); d == 0 || d > 10*time.Second {
			t.Errorf("the pager was notified after %s", d)
		}
		time.Sleep(10 * time.Minute)
	})
}

// TestOwnShare checks that another replica sends a notification that one replica cannot send because of its own limit.
func TestOwnShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3)
		defer s.close()
		s.configure("acme", slowGroups)
		var calls atomic.Int32
		s.run(func(context.Context) (bool, error) {
			if calls.Add(1) == 1 {
				time.Sleep(2 * time.Second)
				return false, fmt.Errorf("template: %w", pace.ErrTooMuch)
			}
			return false, nil
		})
		s.fire("acme", time.Hour, many("A", 1)...)
		time.Sleep(time.Minute)
		if n := calls.Load(); n != 2 {
			t.Errorf("%d attempts, want 2: one that a limit prevented, and one of another replica", n)
		}
	})
}

// TestSilencedMeanwhile checks that a silence that is created while a notification waits for the rate limit applies to it.
func TestSilencedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.limit(func(ctx context.Context, _ func(error)) error {
			select {
			case <-time.After(4 * time.Minute):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		s.configure("acme", slowGroups)
		s.fire("acme", time.Hour, many("A", 1)...)
		s.fire("acme", time.Hour, many("B", 1)...)
		time.Sleep(10 * time.Second)
		now := time.Now().UTC()
		body := fmt.Sprintf(`{"matchers":[{"name":"alertname","value":"A","isRegex":false}],"startsAt":%q,"endsAt":%q,"createdBy":"me","comment":"c"}`,
			now.Format(time.RFC3339), now.Add(24*time.Hour).Format(time.RFC3339))
		if code, text := s.call(0, "acme", http.MethodPost, "/api/v2/silences", body); code != http.StatusOK {
			t.Fatal(code, text)
		}
		time.Sleep(10 * time.Minute)
		if got := s.take(); len(got) == 0 || got[0] != "B0 firing" || strings.Contains(fmt.Sprint(got), "A0") {
			t.Errorf("sent %q", got)
		}
	})
}

// TestCostlyAlerts checks that alerts with large labels are rejected, that the routing of alerts is charged as CPU time of the
// tenant, and that a tenant that has used up its CPU time gets an error.
func TestCostlyAlerts(t *testing.T) {
	s := newSite(t, 1)
	defer s.close()
	push := func(value string) (int, string) {
		return s.call(0, "acme", http.MethodPost, "/api/v2/alerts", fmt.Sprintf(`[{"labels":{"alertname":"A","x":%q}}]`, value))
	}
	if code, text := push(strings.Repeat("x", 9<<10)); code != http.StatusBadRequest || !strings.Contains(text, "the limit is 8192") {
		t.Errorf("large labels: %d %s", code, text)
	}
	turn, err := s.replicas[0].opts.Pace.Begin(t.Context(), "acme", pace.Alerts)
	if err != nil {
		t.Fatal(err)
	}
	turn.Total(time.Minute)
	s.mu.Lock()
	s.cpus["acme"] = 0.25
	s.mu.Unlock()
	if code, text := push("x"); code != http.StatusTooManyRequests || !strings.Contains(text, "alertmanager_cpus") {
		t.Errorf("without CPU time: %d %s", code, text)
	}
	if code, text := s.call(0, "other", http.MethodPost, "/api/v2/alerts", `[{"labels":{"alertname":"A"}}]`); code != http.StatusOK {
		t.Errorf("another tenant: %d %s", code, text)
	}
	if err := s.replicas[0].Changed(t.Context(), "acme"); err != nil {
		t.Errorf("change the configuration: %v", err)
	}
}
