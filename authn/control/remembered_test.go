package control

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// limitsStore is a store of limits with injected delays and failures.
type limitsStore struct {
	retention atomic.Int64 // hours
	fails     atomic.Bool
	hold      chan struct{} // if not nil, reads wait for it or the end of their context
	asked     atomic.Int64
}

func (s *limitsStore) ask(ctx context.Context, _ tenant.ID) (limits.Limits, error) {
	s.asked.Add(1)
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			return limits.Limits{}, ctx.Err()
		}
	}
	if s.fails.Load() {
		return limits.Limits{}, errors.New("store is down")
	}
	return limits.Limits{Retention: limits.Duration(time.Duration(s.retention.Load()) * time.Hour)}, nil
}

func hours(l limits.Limits) int { return int(time.Duration(l.Retention) / time.Hour) }
func withoutStore(error) limits.Limits {
	return limits.Limits{Retention: limits.Duration(99 * time.Hour)}
}
func (s *limitsStore) set(h int) *limitsStore { s.retention.Store(int64(h)); return s }

func remember(t *testing.T, s *limitsStore) (*Remembered, *kit.Clock) {
	t.Helper()
	asking := background.New()
	clock := kit.NewClock(time.UnixMilli(0).Add(time.Hour))
	r := NewRemembered(asking, s.ask, withoutStore, clock.Now)
	t.Cleanup(asking.Stop)
	return r, clock
}

// TestIdleTenant checks that an idle tenant starts with its current limits, however many
// requests arrive at once, and that an active one uses cached limits.
func TestIdleTenant(t *testing.T) {
	s := (&limitsStore{}).set(24)
	r, clock := remember(t, s)
	if h := hours(r.Limits("a")); h != 24 {
		t.Fatalf("first: %d", h)
	}
	s.set(4)
	if h := hours(r.Limits("a")); h != 24 || s.asked.Load() != 1 {
		t.Errorf("cached limits: %d after %d reads", h, s.asked.Load())
	}
	clock.Advance(limitsAge + time.Millisecond)
	if h := hours(r.Limits("a")); h != 24 && h != 4 {
		t.Errorf("limits of an active tenant: %d", h)
	}
	r.asking.Wait()
	if h := hours(r.Limits("a")); h != 4 || s.asked.Load() != 2 {
		t.Errorf("after the refresh: %d after %d reads", h, s.asked.Load())
	}
	s.set(2)
	s.hold = make(chan struct{})
	clock.Advance(idleAge + time.Millisecond)
	got := make(chan int, 8)
	for range cap(got) {
		go func() { got <- hours(r.Limits("a")) }()
	}
	kit.Until(t, "the third read starts", func() bool { return s.asked.Load() >= 3 })
	close(s.hold)
	for range cap(got) {
		if h := <-got; h != 2 {
			t.Errorf("limits of an idle tenant: %d", h)
		}
	}
	if n := s.asked.Load(); n != 3 {
		t.Errorf("%d reads, want 3", n)
	}
}

// TestKnown checks that Known returns the last known limits without waiting for a row store that does not respond, and the
// current limits after a refresh.
func TestKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := (&limitsStore{}).set(24)
		r, clock := remember(t, s)
		if h := hours(r.Known("a")); h != 24 {
			t.Fatalf("first: %d, want 24", h)
		}
		s.set(4)
		s.hold = make(chan struct{})
		clock.Advance(time.Hour)
		began := time.Now()
		if h := hours(r.Known("a")); h != 24 || time.Since(began) != 0 {
			t.Errorf("while the row store does not respond: %d after %s, want 24 at once", h, time.Since(began))
		}
		close(s.hold)
		r.asking.Wait()
		if h, n := hours(r.Known("a")), s.asked.Load(); h != 4 || n != 2 {
			t.Errorf("after the refresh: %d after %d reads, want 4 after 2", h, n)
		}
	})
}

// TestIdleTenants checks that idle tenants also start with their current limits if there
// are more of them than concurrent refreshes are allowed.
func TestIdleTenants(t *testing.T) {
	s := (&limitsStore{}).set(24)
	r, clock := remember(t, s)
	const n = 4 * maxConcurrentReads
	id := func(i int) tenant.ID { return tenant.ID("t" + string(rune('a'+i/26)) + string(rune('a'+i%26))) }
	for i := range n {
		r.Limits(id(i))
	}
	s.set(4)
	clock.Advance(time.Hour)
	got := make(chan int, n)
	for i := range n {
		go func() { got <- hours(r.Limits(id(i))) }()
	}
	for range n {
		if h := <-got; h != 4 {
			t.Errorf("limits of an idle tenant: %d", h)
		}
	}
}

// TestEvictedDuringRefresh checks that callers that wait for a refresh get its limits although
// the entry is evicted meanwhile, and also if the limits are then read again.
func TestEvictedDuringRefresh(t *testing.T) {
	for _, again := range []bool{false, true} {
		s := (&limitsStore{}).set(24)
		r, clock := remember(t, s)
		r.Limits("a")
		s.set(4)
		s.hold = make(chan struct{})
		clock.Advance(idleAge + time.Millisecond)
		got := make(chan int, 2)
		go func() { got <- hours(r.Limits("a")) }()
		kit.Until(t, "the refresh starts", func() bool { return s.asked.Load() == 2 })
		r.mu.Lock()
		delete(r.byID, "a")
		r.mu.Unlock()
		waiting := 1
		if again {
			waiting++
			go func() { got <- hours(r.Limits("a")) }()
			kit.Until(t, "the limits are read again", func() bool { return s.asked.Load() == 3 })
		}
		close(s.hold)
		for range waiting {
			if h := <-got; h != 4 {
				t.Errorf("read again %v: limits %d, want 4", again, h)
			}
		}
	}
}

// TestReadEvictedDuringRefresh checks that a refresh ends although another read of the tenant has ended meanwhile, and its
// entry was evicted and read again after that.
func TestReadEvictedDuringRefresh(t *testing.T) {
	s := (&limitsStore{}).set(24)
	r, clock := remember(t, s)
	r.Limits("a")
	s.hold = make(chan struct{})
	clock.Advance(idleAge + time.Millisecond)
	got := make(chan int, 1)
	go func() { got <- hours(r.Limits("a")) }()
	kit.Until(t, "the refresh starts", func() bool { return s.asked.Load() == 2 })
	r.mu.Lock()
	r.put("a", r.byID["a"].limits, nil) // as readNow does
	delete(r.byID, "a")
	r.put("a", limits.Limits{}, nil)
	r.mu.Unlock()
	close(s.hold)
	<-got
	r.asking.Wait() // a panic would end the process
}

// TestLimitsWithoutStore checks that the last known limits are used while the store is down, and that
// the store is not read again soon after a failed read.
func TestLimitsWithoutStore(t *testing.T) {
	s := (&limitsStore{}).set(24)
	r, clock := remember(t, s)
	r.Limits("a")
	s.fails.Store(true)
	clock.Advance(time.Hour)
	if h := hours(r.Limits("a")); h != 24 {
		t.Errorf("limits while the store is down: %d", h)
	}
	before := s.asked.Load()
	if h := hours(r.Limits("a")); h != 24 || s.asked.Load() != before {
		t.Errorf("second call: %d, %d reads", h, s.asked.Load()-before)
	}
	if h := hours(r.Limits("b")); h != 99 {
		t.Errorf("limits of a tenant that was never read: %d", h)
	}
}
