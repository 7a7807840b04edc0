package retried

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

func TestContract(t *testing.T) {
	objecttest.Run(t, func(*testing.T) objects.Store { return New(memory.New(), Options{}) })
}

// unreliable is a store where 10% of the reads fail and every hundredth hangs.
type unreliable struct {
	objects.Store
	mu                     sync.Mutex
	calls                  int
	random                 *rand.Rand
	failed, hung, released atomic.Int64
}

func (u *unreliable) fault(ctx context.Context) error {
	u.mu.Lock()
	u.calls++
	hang, fail, d := u.calls%100 == 0, u.random.Float64() < 0.1, time.Duration(u.random.IntN(30))*time.Millisecond
	u.mu.Unlock()
	switch {
	case hang:
		u.hung.Add(1)
		<-ctx.Done()
		u.released.Add(1)
		return ctx.Err()
	case fail:
		u.failed.Add(1)
		return errors.New("500 internal error")
	}
	time.Sleep(d)
	return nil
}

func (u *unreliable) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	if err := u.fault(ctx); err != nil {
		return nil, err
	}
	return u.Store.Get(ctx, name, off, n)
}

func (u *unreliable) Stat(ctx context.Context, name string) (objects.Object, error) {
	if err := u.fault(ctx); err != nil {
		return objects.Object{}, err
	}
	return u.Store.Stat(ctx, name)
}

// TestUnreliable makes 2,000 reads of a store where 10% of the calls fail and every hundredth
// hangs until its context ends. All reads succeed. After the first 500 reads, which provide the
// durations for hedging, no read waits for a call that hangs: two calls of a read never both hang.
func TestUnreliable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New()
		inner.Replace("l1/a", []byte("content"))
		u := &unreliable{Store: inner, random: rand.New(rand.NewPCG(1, 2))}
		s := New(u, Options{})
		for i := range 2000 {
			began := time.Now()
			if i%4 == 0 {
				if o, err := s.Stat(t.Context(), "l1/a"); err != nil || o.Size != 7 {
					t.Fatalf("read %d: %+v, %v", i, o, err)
				}
			} else if b, err := s.Get(t.Context(), "l1/a", 1, 3); err != nil || string(b) != "ont" {
				t.Fatalf("read %d: %q, %v", i, b, err)
			}
			if i >= 500 && time.Since(began) >= stall { // until then there is no p95 of each kind
				t.Errorf("read %d waited %s for a call that hangs", i, time.Since(began))
			}
		}
		time.Sleep(time.Second) // until canceled calls have ended
		if u.failed.Load() < 150 || u.hung.Load() < 10 || u.released.Load() != u.hung.Load() {
			t.Errorf("%d calls failed, %d hung, %d of which were canceled; want at least 150 and 10, and all canceled",
				u.failed.Load(), u.hung.Load(), u.released.Load())
		}
	})
}

// TestWhatIsRetried checks how often the adapter is called for each call and error.
func TestWhatIsRetried(t *testing.T) {
	denied := errors.New("403 forbidden")
	for name, tt := range map[string]struct {
		err   error
		calls int
	}{
		"injected": {faults.ErrInjected, 4}, "denied": {denied, 1}, "not found": {objects.ErrNotFound, 1}, "invalid": {objects.ErrInvalid, 1},
		"closed": {objects.ErrClosed, 1}, "exists": {objects.ErrExists, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &failing{err: tt.err}
			s := New(f, Options{Permanent: func(err error) bool { return errors.Is(err, denied) }})
			for call, do := range map[string]func() error{
				"Get":  func() error { _, err := s.Get(t.Context(), "a", 0, 1); return err },
				"Stat": func() error { _, err := s.Stat(t.Context(), "a"); return err },
			} {
				f.calls = 0
				if err := do(); !errors.Is(err, tt.err) || f.calls != tt.calls {
					t.Errorf("%s: %s: %d calls, %v; want %d", name, call, f.calls, err, tt.calls)
				}
			}
		})
	}
	plan := &faults.Plan{}
	plan.Fail(1, faults.Killed)
	s := New(faulty.Store{Store: memory.New(), Plan: plan}, Options{})
	_, putErr := s.Put(t.Context(), "l1/a", "none", 0)
	listErr := s.List(t.Context(), "", func(objects.Object) bool { return true })
	if err := s.Delete(t.Context(), "l1/a"); err == nil || putErr == nil || listErr == nil || len(plan.Calls()) != 1 {
		t.Errorf("calls %v: %v, %v, %v", plan.Calls(), putErr, listErr, err)
	}
}

type failing struct {
	objects.Store
	err   error
	calls int
}

func (f *failing) Get(context.Context, string, int64, int) ([]byte, error) {
	f.calls++
	return nil, f.err
}

func (f *failing) Stat(context.Context, string) (objects.Object, error) {
	f.calls++
	return objects.Object{}, f.err
}

// slow is a store whose reads take the time that the test sets.
type slow struct {
	objects.Store
	takes time.Duration
	calls atomic.Int64
}

func (s *slow) Get(ctx context.Context, _ string, _ int64, _ int) ([]byte, error) {
	s.calls.Add(1)
	select {
	case <-time.After(s.takes):
		return make([]byte, 1), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestKinds checks that slow reads are hedged after the p95 of reads of similar size, and that
// reads of more than hedgedBytes are not hedged.
func TestKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &slow{}
		s := New(inner, Options{})
		get := func(n int, d time.Duration) int64 {
			inner.takes = d
			before := inner.calls.Load()
			if _, err := s.Get(t.Context(), "l1/a", 0, n); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return inner.calls.Load() - before
		}
		for range 100 {
			get(1000, 30*time.Millisecond)
			get(1<<20, 300*time.Millisecond)
			get(5<<20, 3*time.Second)
		}
		for n, usual := range map[int]time.Duration{1000: 30 * time.Millisecond, 1 << 20: 300 * time.Millisecond, 5 << 20: 3 * time.Second} {
			if fast, late := get(n, usual-1), get(n, 2*usual); fast != 1 || late != 2 {
				t.Errorf("%d bytes: %d calls in less than %s, %d in twice that", n, fast, usual, late)
			}
		}
		if calls := get(50<<20, 9*time.Second); calls != 1 {
			t.Errorf("a read of 50 MiB made %d calls, want 1", calls)
		}
	})
}
