package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/integrations"
)

const twoReceivers = `
route: {receiver: hook, group_by: [alertname], group_wait: 1s, group_interval: 10s, repeat_interval: 1h}
receivers:
- {name: hook, webhook_configs: [{url: "http://hook.example"}, {url: "http://other.example"}]}
- {name: spare, webhook_configs: [{url: "http://spare.example", send_resolved: false}]}
- {name: quiet}
`

// receivers returns the response of a replica to a request for the receivers, by receiver.
func (s *site) receivers(replica int, id tenant.ID) map[string]Receiver {
	s.t.Helper()
	code, text := s.call(replica, id, http.MethodGet, "/receivers", "")
	if code != http.StatusOK {
		s.t.Fatalf("receivers: %d %s", code, text)
	}
	var answer Receivers
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		s.t.Fatal(err)
	}
	out := map[string]Receiver{}
	for _, r := range answer.Receivers {
		out[r.Name] = r
	}
	return out
}

// fail makes attempts fail with an error, or succeed if it is nil.
func (s *site) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

// limit sets the function that delays notifications before they are sent; nil for none.
func (s *site) limit(admits func(ctx context.Context, delayed func(error)) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admits = admits
}

// run sets the function that attempts call.
func (s *site) run(does func(context.Context) (bool, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.does = does
}

// kept returns the number of integrations whose last attempt is recorded by the instance of a tenant.
func (s *site) kept(id tenant.ID) int {
	s.t.Helper()
	in, err := s.replicas[0].get(context.Background(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	in.attempts.mu.Lock()
	defer in.attempts.mu.Unlock()
	return len(in.attempts.last)
}

// TestAttempts checks the last attempt of a receiver that fails and recovers while configurations change, and that another
// tenant does not see it.
func TestAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", twoReceivers)
		s.configure("other", twoReceivers)
		if got := s.receivers(0, "acme"); len(got) != 3 || !got["hook"].Active || got["spare"].Active || len(got["spare"].Integrations) != 1 ||
			got["quiet"].Integrations == nil || got["hook"].Integrations[1].Index != 1 || !got["hook"].Integrations[0].LastNotifyAttempt.IsZero() {
			t.Fatalf("before the first attempt: %+v", got)
		}
		s.fail(errors.New("no such hook"))
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(25 * time.Second) // three flushes
		got := s.receivers(0, "acme")["hook"].Integrations[1]
		if got.LastNotifyAttemptError != "no such hook" || got.FailedNotifyAttempts != 3 || time.Since(got.LastNotifyAttempt) > 10*time.Second ||
			!got.LastNotifySuccess.IsZero() {
			t.Errorf("after three failures: %+v", got)
		}
		if in := s.receivers(0, "other")["hook"].Integrations[0]; !in.LastNotifyAttempt.IsZero() || s.kept("other") != 0 {
			t.Errorf("another tenant has an attempt: %+v", in)
		}

		s.configure("acme", strings.Replace(twoReceivers, ", {url: \"http://other.example\"}", "", 1))
		if in := s.receivers(0, "acme")["hook"].Integrations; len(in) != 1 || in[0].LastNotifyAttemptError == "" || s.kept("acme") != 1 {
			t.Errorf("after an integration was removed: %+v, %d are kept", in, s.kept("acme"))
		}
		s.fail(nil)
		time.Sleep(20 * time.Second)
		got = s.receivers(0, "acme")["hook"].Integrations[0]
		if got.LastNotifyAttemptError != "" || got.FailedNotifyAttempts != 0 || got.LastNotifySuccess.IsZero() || got.LastNotifyAttemptDuration == "" {
			t.Errorf("after a success: %+v", got)
		}
		s.configure("acme", "route: {receiver: hook}\nreceivers: [{name: hook}]\n")
		in, err := s.replicas[0].get(context.Background(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		in.attempts.ended(integrationKey{"hook", "webhook", 0}, time.Now(), time.Second, nil) // of the previous configuration
		if n := s.kept("acme"); n != 0 {
			t.Errorf("%d attempts of integrations that do not exist are kept", n)
		}
	})
}

// TestAttemptsInProgress checks that a failure is visible while the notification is retried, and a delay while it lasts.
// An attempt that ends because of a new configuration does not count as a failure.
func TestAttemptsInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", strings.Replace(testConfig, "group_interval: 10s", "group_interval: 10m", 1))
		s.run(func(context.Context) (bool, error) { return true, errors.New("try later") })
		s.fire("acme", time.Hour, one("A"))
		time.Sleep(time.Minute)
		if in := s.receivers(0, "acme")["hook"].Integrations[0]; in.LastNotifyAttemptError != "try later" || in.FailedNotifyAttempts < 5 {
			t.Errorf("while it is retried: %+v", in)
		}
		s.run(nil)
		time.Sleep(2 * time.Minute)
		s.limit(func(ctx context.Context, delayed func(error)) error {
			limiter := integrations.NewTenantLimiter(integrations.Rates{Default: integrations.Rate{PerSecond: 0.01, Burst: 1}}).Of("webhook")
			_ = limiter.Wait(ctx)
			return limiter.Wait(integrations.ReportDelays(ctx, delayed))
		})
		s.fire("acme", time.Hour, one("B"))
		time.Sleep(5 * time.Second)
		in := s.receivers(0, "acme")["hook"].Integrations[0]
		if !strings.Contains(in.LastNotifyAttemptError, "delayed for 1m40s by the tenant's rate limit: the limit of webhook notifications is 0.01 a second") {
			t.Errorf("while it is delayed: %+v", in)
		}
		failures := in.FailedNotifyAttempts
		s.configure("acme", testConfig)
		if in = s.receivers(0, "acme")["hook"].Integrations[0]; in.FailedNotifyAttempts != failures {
			t.Errorf("a new configuration made %d failures %d", failures, in.FailedNotifyAttempts)
		}
		time.Sleep(10 * time.Minute)
		if in = s.receivers(0, "acme")["hook"].Integrations[0]; !strings.Contains(in.LastNotifyAttemptError, "dropped by the tenant's rate limit") ||
			in.FailedNotifyAttempts <= failures {
			t.Errorf("with a short interval: %+v", in)
		}
		s.limit(nil) // so that no notification is in progress when the row store is closed
		time.Sleep(time.Minute)
	})
}

// TestFailedConfiguration checks that the response contains the error of a stored configuration that cannot be run.
func TestFailedConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.configure("acme", testConfig)
		if code, text := s.call(0, "acme", http.MethodGet, "/receivers", ""); code != http.StatusOK || strings.Contains(text, "failed\"") {
			t.Errorf("a configuration that runs: %d %s", code, text)
		}
		s.configure("acme", "route: {receiver: nobody}\nreceivers: [{name: r}]\n")
		if _, text := s.call(0, "acme", http.MethodGet, "/receivers", ""); !strings.Contains(text, `"name":"hook"`) || !strings.Contains(text, "nobody") {
			t.Errorf("a configuration that does not run: %s", text)
		}
	})
}
