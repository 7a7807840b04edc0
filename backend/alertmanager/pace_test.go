package alertmanager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/notify"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestOverdrawn checks that a tenant which has used its CPU time is notified later, and that another tenant is not.
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

// TestRoom checks that flushes beyond the number of integrations at the same time wait, for as long as a flush may take.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1)
		defer s.close()
		s.fire("acme", time.Hour, map[string]string{"alertname": "A"})
		in, err := s.replicas[0].get(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		if !in.sending.TryAcquire(maxSending - 1) {
			t.Fatal("there is no room")
		}
		integration := notify.NewIntegration(s, s, "webhook", 0, "hook")
		stage := &claimStage{instance: in, integration: &integration, receiver: &nflogpb.Receiver{GroupName: "hook", Integration: "webhook"}}
		flushed := 0
		try := func(n int) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, _, err := in.flushing(slices.Repeat([]*claimStage{stage}, n), notify.MultiStage{}).Exec(ctx, in.logger)
			flushed++
			return err
		}
		if err := try(1); err != nil {
			t.Errorf("one integration: %v", err)
		}
		if err := try(2); err == nil {
			t.Error("two integrations had room for one")
		}
		in.sending.Release(maxSending - 1)
		if err := try(3 * maxSending); err != nil {
			t.Errorf("a receiver with many integrations: %v", err)
		}
		if !in.sending.TryAcquire(maxSending) {
			t.Errorf("after %d flushes there is not all of the room", flushed)
		}
	})
}
