package integrations

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/backend/alertmanager/pace"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewTenantLimiter(Rates{Default: Rate{PerSecond: 0.1, Burst: 2}, ByIntegration: map[string]Rate{"slack": {}, "email": {PerSecond: -1}}})
		began := time.Now()
		wait := func(l *Limiter, timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			return l.Wait(ctx)
		}
		webhook := l.Of("webhook")
		for i, at := range []time.Duration{0, 0, 10 * time.Second, 20 * time.Second} {
			if err := wait(webhook, time.Minute); err != nil || time.Since(began) != at {
				t.Errorf("notification %d: %v after %v, want after %v", i, err, time.Since(began), at)
			}
		}
		err := wait(webhook, 9*time.Second)
		var reason *notify.ErrorWithReason
		if !errors.Is(err, ErrDropped) || !errors.As(err, &reason) || reason.Reason != notify.RateLimitedReason || time.Since(began) != 20*time.Second {
			t.Errorf("a notification that may not be sent before its deadline: %v after %v", err, time.Since(began))
		}
		if !strings.Contains(err.Error(), "the limit of webhook notifications is 0.1 a second with a burst of 2") {
			t.Errorf("error %q", err)
		}
		if err := wait(webhook, 10*time.Second); err != nil {
			t.Errorf("a dropped notification used the budget: %v", err)
		}
		for range 1000 {
			if err := wait(l.Of("slack"), time.Second); err != nil {
				t.Fatalf("integration without a limit: %v", err)
			}
		}
		if err := wait(l.Of("email"), time.Minute); !errors.Is(err, ErrDropped) {
			t.Errorf("integration that may not notify: %v", err)
		}
		want := State{Delayed: 3, Dropped: 1, LastDropped: began.Add(20 * time.Second)}
		if got := l.States()["webhook"]; got != want {
			t.Errorf("state %+v, want %+v", got, want)
		}
	})
}

func TestLimiterCancelAndReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewTenantLimiter(Rates{Default: Rate{PerSecond: 1, Burst: 1}})
		w := l.Of("webhook")
		if err := w.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Wait(ctx) }()
		synctest.Wait()
		if n := w.State().Waiting; n != 1 {
			t.Errorf("%d notifications wait", n)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrDropped) || w.State().Waiting != 0 {
			t.Errorf("cancelled while waiting: %v, %+v", err, w.State())
		}
		l.SetRates(Rates{Default: Rate{PerSecond: 0.001, Burst: 1}})
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Wait(ctx); !errors.Is(err, ErrDropped) {
			t.Errorf("after the limit was lowered: %v", err)
		}
		if l.Of("webhook") != w {
			t.Error("the limiter of an integration was replaced")
		}
		l.SetRates(Rates{})
		if err := w.Wait(ctx); err != nil {
			t.Errorf("after the limit was removed: %v", err)
		}
	})
}

// TestRateLimitedIntegration checks that a notification that the limiter drops is counted, and is neither sent nor retried.
func TestRateLimitedIntegration(t *testing.T) {
	s := start(t, service)
	o := optionsOf(s, allow(t, "127.0.0.1"))
	o.Limiter = NewTenantLimiter(Rates{Default: Rate{PerSecond: 1e-6, Burst: 1}})
	is := build(t, receiver(t, "webhook_configs:\n- url: http://a.example/\n- url: http://b.example/"), o)
	ctx, cancel := context.WithTimeout(flush(t), time.Minute)
	defer cancel()
	if _, err := is[0].Notify(ctx, firing()); err != nil {
		t.Fatal(err)
	}
	if retry, err := is[1].Notify(ctx, firing()); retry || !errors.Is(err, ErrDropped) {
		t.Errorf("the second integration of the type: retry %t, %v", retry, err)
	}
	if got, _ := s.got(); len(got) != 1 || testutil.ToFloat64(o.Metrics.dropped.WithLabelValues("webhook")) != 1 ||
		testutil.ToFloat64(o.Metrics.notifications.WithLabelValues("webhook")) != 1 {
		t.Errorf("%d requests, want as many as the metrics count", len(got))
	}
	o.Limiter.SetRates(Rates{Default: Rate{PerSecond: 1e6, Burst: 1}})
	cancelled, stop := context.WithCancel(ctx)
	stop()
	if retry, err := is[0].Notify(cancelled, firing()); !retry || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: retry %t, %v", retry, err)
	}
}

// TestAdmission checks that the first attempt of a notification that was admitted does not wait again, but later attempts
// and other notifications do.
func TestAdmission(t *testing.T) {
	s := start(t, service)
	o := optionsOf(s, allow(t, "127.0.0.1"))
	o.Limiter = NewTenantLimiter(Rates{Default: Rate{PerSecond: 1e-6, Burst: 1}})
	is := build(t, receiver(t, "webhook_configs:\n- url: http://a.example/"), o)
	ctx, cancel := context.WithTimeout(flush(t), time.Minute)
	defer cancel()
	ctx, admit := o.Limiter.Admission(ctx, "webhook", o.Metrics)
	if err := admit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := is[0].Notify(ctx, firing()); err != nil {
		t.Errorf("the first attempt: %v", err)
	}
	if _, err := is[0].Notify(ctx, firing()); !errors.Is(err, ErrDropped) {
		t.Errorf("the second attempt: %v", err)
	}
	if err := admit(ctx); !errors.Is(err, ErrDropped) {
		t.Errorf("another notification: %v", err)
	}
	if _, err := is[0].Notify(ctx, firing()); !errors.Is(err, ErrDropped) {
		t.Errorf("an attempt of a notification that was not admitted: %v", err)
	}
}

// TestPacedIntegration checks that the execution of templates is charged as CPU time of the tenant, and requests are not.
func TestPacedIntegration(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r request) {
		arrived <- struct{}{}
		<-proceed
		service(w, r)
	})
	o := optionsOf(s, allow(t, "127.0.0.1"))
	is := build(t, receiver(t, "webhook_configs:\n- url: http://a.example/\n- url: http://b.example/"), o)
	done := make(chan error, 2)
	for i := range is {
		go func() { _, err := is[i].Notify(flush(t), firing()); done <- err }()
	}
	for range is {
		<-arrived // both attempts are in progress: neither holds the turn while it waits for its response
	}
	turn, err := o.Pace.Begin(t.Context(), o.Tenant, pace.Notifications)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(flush(t), 50*time.Millisecond)
	defer cancel()
	if _, err := is[0].Notify(ctx, firing()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a turn: %v", err)
	}
	turn.End()
	close(proceed)
	for range is {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
