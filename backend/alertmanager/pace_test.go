package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestOverdrawn checks that notifications of a tenant that has used up its CPU time are delayed, and those of another tenant
// are not.
func TestOverdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2)
		defer s.close()
		set := func(id tenant.ID, cpus float64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cpus[id] = cpus
		}
		set("heavy", 0.25)
		set("light", 0.25)
		for _, id := range []tenant.ID{"heavy", "light"} {
			s.configure(id, testConfig)
			s.fire(id, time.Hour, map[string]string{"alertname": string(id)})
		}
		set("heavy", 1e-9) // less than it has used
		time.Sleep(2 * time.Minute)
		if got := s.take(); fmt.Sprint(got) != "[light firing]" {
			t.Errorf("sent %q, want only that of the light tenant", got)
		}
		if got := s.receivers(0, "heavy")["hook"].Integrations[0]; !strings.Contains(got.LastNotifyAttemptError, "alertmanager_cpus") {
			t.Errorf("the heavy tenant sees %+v", got)
		}
		set("heavy", 0.25)
		time.Sleep(20 * time.Second)
		if got := s.take(); fmt.Sprint(got) != "[heavy firing]" {
			t.Errorf("with more CPU time, sent %q", got)
		}
	})
}

// TestRoom checks that flushes beyond the maximum number of concurrent flushes of a receiver wait, as long as a flush may
// take, and that flushes of another receiver do not wait.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.fire("acme", time.Hour, map[string]string{"alertname": "A"})
		in, err := s.replicas[0].get(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		stuck := notify.StageFunc(func(ctx context.Context, _ *slog.Logger, _ ...*alert.Alert) (context.Context, []*alert.Alert, error) {
			<-release
			return ctx, nil, nil
		})
		integration := notify.NewIntegration(s, s, "webhook", 0, "hook")
		stage := &claimStage{instance: in, integration: &integration, receiver: &nflogpb.Receiver{GroupName: "hook", Integration: "webhook"}}
		for _, c := range []struct{ integrations, most int }{{1, 200}, {100, 20}, {5000, 1}} {
			hook := in.flushing(slices.Repeat([]*claimStage{stage}, c.integrations), stuck)
			var wg sync.WaitGroup
			for range c.most {
				wg.Go(func() {
					if _, _, err := hook.Exec(t.Context(), in.logger); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, _, err := hook.Exec(ctx, in.logger); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d integrations: one more flush than %d: %v", c.integrations, c.most, err)
			}
			cancel()
			if _, _, err := in.flushing([]*claimStage{stage}, notify.MultiStage{}).Exec(t.Context(), in.logger); err != nil {
				t.Errorf("another receiver: %v", err)
			}
			close(release)
			wg.Wait()
			release = make(chan struct{})
		}
	})
}
