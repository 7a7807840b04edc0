package pace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/tenant"
)

func newPace(cpus float64) *Pace {
	return New(func(tenant.ID) float64 { return cpus }, prometheus.NewRegistry())
}

// work works for a time, and returns the error of Begin.
func work(ctx context.Context, p *Pace, t tenant.ID, d time.Duration) error {
	turn, err := p.Begin(ctx, t, Notifications)
	if err != nil {
		return err
	}
	defer turn.End()
	time.Sleep(d)
	return nil
}

// TestShare checks that a tenant with much work gets the CPU time of its limit, and that another tenant does not wait for it.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(0.25)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		var busy time.Duration
		working := 0
		for range 100 {
			wg.Go(func() {
				for {
					turn, err := p.Begin(ctx, "heavy", Notifications)
					if err != nil {
						return
					}
					mu.Lock()
					if working++; working > 1 {
						t.Error("a tenant has two turns at the same time")
					}
					mu.Unlock()
					time.Sleep(500 * time.Millisecond)
					mu.Lock()
					busy += 500 * time.Millisecond
					working--
					mu.Unlock()
					turn.End()
				}
			})
		}
		for range 1000 {
			began := time.Now()
			if err := work(ctx, p, "light", time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d != time.Millisecond {
				t.Fatalf("work of the other tenant took %s", d)
			}
			time.Sleep(time.Second)
		}
		cancel()
		wg.Wait()
		if most := 250*time.Second + burst; busy > most || busy < 240*time.Second {
			t.Errorf("the tenant worked for %s of 1000 s", busy)
		}
	})
}

// TestTooMuch checks that work that cannot begin before its deadline fails at once, and that it can begin when the debt is paid
// off.
func TestTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(0.5)
		if err := work(t.Context(), p, "a", 30*time.Second); err != nil {
			t.Fatal(err) // the debt is 10 s: 5 s were left, and 15 s were added in the meantime
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := work(ctx, p, "a", 0); !errors.Is(err, ErrTooMuch) || time.Since(began) != 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 21*time.Second)
		defer cancel()
		if err := work(ctx, p, "a", 0); err != nil || time.Since(began) < 19*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestTotal checks that work after the end of a turn is charged once.
func TestTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(1)
		turn, err := p.Begin(t.Context(), "a", Notifications)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		turn.End()
		time.Sleep(time.Hour)
		turn.Total(3 * time.Second)
		turn.Total(time.Second)
		s := p.shares[of{"a", Notifications}]
		if debt := s.debt(1, s.at.Add(0)); debt != -burst+3*time.Second {
			t.Errorf("the balance is %s", -debt)
		}
	})
}

// TestUnlimited checks that 0 means no limit, and that a changed limit takes effect.
func TestUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cpus := 0.
		p := New(func(tenant.ID) float64 { return cpus }, prometheus.NewRegistry())
		began := time.Now()
		for range 100 {
			if err := work(t.Context(), p, "a", time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d != 100*time.Second {
			t.Errorf("took %s", d)
		}
		cpus = 0.1
		if err := work(t.Context(), p, "a", time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 101*time.Second || d > 120*time.Second {
			t.Errorf("took %s with a limit", d)
		}
	})
}

// TestCanceled checks that a caller that stops waiting does not block others.
func TestCanceled(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newPace(0.01)
	turn, err := p.Begin(t.Context(), "a", Notifications)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Begin(gone, "a", Notifications); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a turn: %v", err)
	}
	turn.Total(time.Minute)
	if _, err := p.Begin(gone, "a", Notifications); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for CPU time: %v", err)
	}
	if n := p.shares[of{"a", Notifications}].users; n != 0 {
		t.Errorf("%d users are left", n)
	}
}

// TestSlowLimit checks that other work of a tenant continues while a caller waits for the limit of the tenant.
func TestSlowLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		first := make(chan struct{}, 1)
		first <- struct{}{}
		p := New(func(tenant.ID) float64 {
			select {
			case <-first:
				<-release
			default:
			}
			return 1
		}, prometheus.NewRegistry())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := work(t.Context(), p, "a", time.Millisecond); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // it waits for the limit
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := work(ctx, p, "a", time.Millisecond); err != nil {
			t.Errorf("while another caller waits for the limit: %v", err)
		}
		close(release)
		wg.Wait()
	})
}

// TestManyTenants checks that the shares of idle tenants are removed.
func TestManyTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(0.25)
		for i := range 10_000 {
			if err := work(t.Context(), p, tenant.ID(fmt.Sprint("t", i)), time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(p.shares); n > 200 {
			t.Errorf("%d shares are kept", n)
		}
	})
}

// TestMetrics checks that all counters exist from the start, because rate() does not see the first increase of a new counter.
func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	New(func(tenant.ID) float64 { return 0 }, r)
	if n, err := testutil.GatherAndCount(r); err != nil || n != 12 {
		t.Errorf("%d series: %v", n, err)
	}
}
