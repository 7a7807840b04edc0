package memory

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

const mb = 1 << 20

// empty checks that nothing is held in the account.
func empty(t *testing.T, a *Account) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used != 0 || a.internal != 0 || len(a.tenants) != 0 || len(a.holdings) != 0 {
		t.Errorf("still held: %d and %d bytes, %d tenants, %d holdings", a.used, a.internal, len(a.tenants), len(a.holdings))
	}
}

// TestShares checks that one tenant gets half of the memory for tenants, two a
// third each, three a quarter each, and that some is left for another tenant.
func TestShares(t *testing.T) {
	const limit = 128 * mb // 16 MiB of it are the reserve
	for n, want := range map[int]int64{1: 56 * mb, 2: 37 * mb, 3: 28 * mb, 7: 14 * mb} {
		a := NewAccount(limit, nil)
		var all []*Holding
		for i := range n {
			all = append(all, a.Begin(Request{Tenant: tenant.ID(rune('a' + i))}))
		}
		for more := true; more; { // take turns
			more = false
			for _, h := range all {
				more = h.Take(mb) == nil || more
			}
		}
		for i, h := range all {
			if got := h.Used(); got < want-mb || got > want {
				t.Errorf("tenant %d of %d holds %d, want about %d", i+1, n, got, want)
			}
		}
		if late := a.Begin(Request{Tenant: "late"}); late.Take(5*mb) != nil {
			t.Errorf("no memory is left for another tenant after %d tenants", n)
		} else {
			late.Close()
		}
		for _, h := range all {
			h.Close()
		}
		empty(t, a)
	}
}

// TestErrors checks that the error depends on whose limit was reached and on
// whether the request will be retried.
func TestErrors(t *testing.T) {
	tests := []struct {
		name   string
		limit  int64 // of the account
		req    Request
		others int64 // bytes held by another request of the tenant
		rivals int64 // bytes held by another tenant
		take   int64
		want   string // full, large, exceeded, or "" for no error
	}{
		{"within", 100 * mb, Request{}, 0, 0, 40 * mb, ""},
		{"a read above half", 100 * mb, Request{}, 0, 0, 50 * mb, "exceeded"},
		{"a write above half", 100 * mb, Request{Write: true}, 0, 0, 50 * mb, "large"},
		{"a read above the tenant's limit", 100 * mb, Request{Limit: 10 * mb}, 0, 0, 11 * mb, "exceeded"},
		{"a write above the tenant's limit", 100 * mb, Request{Limit: 10 * mb, Write: true}, 0, 0, 11 * mb, "large"},
		{"reads together above the tenant's limit", 100 * mb, Request{Limit: 10 * mb}, 6 * mb, 0, 6 * mb, "exceeded"},
		{"writes together above the tenant's limit", 100 * mb, Request{Limit: 10 * mb, Write: true}, 6 * mb, 0, 6 * mb, "full"},
		{"reads together above half", 100 * mb, Request{}, 30 * mb, 0, 30 * mb, "full"},
		{"with another tenant", 100 * mb, Request{}, 0, 40 * mb, 30 * mb, "full"},
		{"internal, in the reserve", 100 * mb, Request{Internal: true}, 40 * mb, 20 * mb, 30 * mb, ""},
		{"internal, above all", 100 * mb, Request{Internal: true}, 0, 40 * mb, 61 * mb, "full"},
		{"no account", 0, Request{}, 0, 0, 1 << 50, ""},
		{"no account, the tenant's limit", 0, Request{Limit: 10 * mb}, 6 * mb, 0, 6 * mb, "exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAccount(tt.limit, nil)
			tt.req.Tenant = "a"
			other, rival := a.Begin(Request{Tenant: "a", Limit: tt.req.Limit}), a.Begin(Request{Tenant: "b"})
			if err := errors.Join(other.Take(tt.others), rival.Take(tt.rivals)); err != nil {
				t.Fatal(err)
			}
			h := a.Begin(tt.req)
			err := h.Take(tt.take)
			var large *TooLargeError
			var exceeded *limits.Exceeded
			got := ""
			switch {
			case errors.As(err, &large):
				got = "large"
			case errors.As(err, &exceeded):
				got = "exceeded"
				if exceeded.Name() != "max_memory_bytes" {
					t.Errorf("the error names the limit %s, want max_memory_bytes", exceeded.Name())
				}
			case errors.Is(err, ErrFull):
				got = "full"
			case err != nil:
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err != nil && h.Used() != 0 {
				t.Errorf("%d bytes held after an error", h.Used())
			}
			for _, h := range []*Holding{h, other, rival} {
				h.Close()
				h.Close()
			}
			empty(t, a)
		})
	}
}

// TestHolding checks that released bytes can be taken again, and that nothing can
// be taken after Close.
func TestHolding(t *testing.T) {
	a := NewAccount(100*mb, nil)
	h := a.Begin(Request{Tenant: "a"})
	for range 100 {
		if err := h.Take(10 * mb); err != nil {
			t.Fatal(err)
		}
		h.Give(10*mb - 1)
	}
	if h.Used() != 100 {
		t.Errorf("Used = %d, want 100", h.Used())
	}
	if held := a.Used(); held > 20*step {
		t.Errorf("the account holds %d bytes, want at most %d", held, 20*step)
	}
	if err := h.Raise(5 * mb); err != nil || h.Used() != 5*mb {
		t.Errorf("Raise: used %d, error %v", h.Used(), err)
	}
	if err := h.Raise(mb); err != nil || h.Used() != 5*mb {
		t.Errorf("Raise to less: used %d, error %v", h.Used(), err)
	}
	h.Close()
	if err := h.Take(1); err == nil {
		t.Error("Take succeeded after Close")
	}
	empty(t, a)
	var none *Holding
	if err := errors.Join(none.Take(1<<60), none.Raise(1<<60)); err != nil {
		t.Error(err)
	}
	none.Give(1)
	none.OnEnd(nil)
	none.Close()
}

// TestEndHeaviest checks that the read that holds most is ended once, with a cause,
// and that writes and small reads are never ended.
func TestEndHeaviest(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := NewAccount(1000*mb, reg)
	ctx, cancel := context.WithCancelCause(context.Background())
	heavy, light, write := a.Begin(Request{Tenant: "a"}), a.Begin(Request{Tenant: "b"}), a.Begin(Request{Tenant: "c", Write: true})
	heavy.OnEnd(cancel)
	light.OnEnd(func(error) { t.Error("the wrong request was ended") })
	if err := errors.Join(heavy.Take(20*mb), light.Take(10*mb), write.Take(30*mb)); err != nil {
		t.Fatal(err)
	}
	if _, held := a.EndHeaviest(25 * mb); held != 0 {
		t.Errorf("a request with %d bytes was ended", held)
	}
	for range 2 { // the ended request still holds its bytes: no other is ended
		if _, held := a.EndHeaviest(mb); held != 20*mb {
			t.Errorf("the ended request holds %d bytes, want 20 MiB", held)
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, ErrEnded) {
		t.Errorf("cause = %v, want ErrEnded", cause)
	}
	if err := heavy.Take(1); !errors.Is(err, ErrEnded) {
		t.Errorf("Take after the end: %v", err)
	}
	heavy.Close()
	light.Close()
	write.Close()
	if _, held := a.EndHeaviest(0); held != 0 {
		t.Errorf("a request with %d bytes was ended, but there is none", held)
	}
	if n := testutil.ToFloat64(a.ended); n != 1 {
		t.Errorf("%g requests ended, want 1", n)
	}
	empty(t, a)
}

// TestEndHeaviestOfTenant checks that EndHeaviest ends a read of the tenant whose
// reads together hold most, although a single read of another tenant holds more.
// Writes do not count.
func TestEndHeaviestOfTenant(t *testing.T) {
	a := NewAccount(1000*mb, nil)
	ended := ""
	for _, r := range []struct {
		name  string
		id    tenant.ID
		bytes int64
		write bool
	}{{"single", "a", 20, false}, {"larger", "b", 16, false}, {"smaller", "b", 12, false}, {"write", "c", 40, true}} {
		h := a.Begin(Request{Tenant: r.id, Write: r.write})
		defer h.Close()
		if err := h.Take(r.bytes * mb); err != nil {
			t.Fatal(err)
		}
		h.OnEnd(func(error) { ended += r.name })
	}
	if id, held := a.EndHeaviest(mb); id != "b" || held != 16*mb || ended != "larger" {
		t.Errorf("ended %q of tenant %s with %d bytes, want larger of b with 16 MiB", ended, id, held)
	}
}

// TestConcurrent checks that concurrent requests never hold more than the limit,
// and that the account is empty at the end.
func TestConcurrent(t *testing.T) {
	a := NewAccount(50*mb, nil)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			for range 100 {
				h := a.Begin(Request{Tenant: tenant.ID(rune('a' + i%5)), Write: i%2 == 0, Internal: i%11 == 0})
				var two sync.WaitGroup
				for part := range 2 { // parts of a request
					two.Go(func() {
						rnd := rand.New(rand.NewPCG(uint64(part), uint64(i)))
						for range 10 {
							if h.Take(int64(rnd.Uint32()%mb)) != nil {
								return
							}
							h.Give(1000)
						}
					})
				}
				if i == 7 {
					a.EndHeaviest(mb)
				}
				if used := a.Used(); used > 50*mb {
					t.Errorf("%d bytes are held, want at most %d", used, 50*mb)
				}
				two.Wait()
				h.Close()
			}
		})
	}
	all.Wait()
	empty(t, a)
}

// TestSet checks that each string is charged once, and that lack of memory results
// in an error, not in a shorter list.
func TestSet(t *testing.T) {
	a := NewAccount(mb, nil)
	h := a.Begin(Request{Tenant: "a"})
	s := NewSet(h)
	for range 1000 {
		s.Add("b")
		s.Add("a")
	}
	if list, err := s.Sorted(); err != nil || len(list) != 2 || list[0] != "a" {
		t.Errorf("Sorted = %v, %v", list, err)
	}
	if h.Used() > 1000 {
		t.Errorf("%d bytes charged for two strings", h.Used())
	}
	for i := range 100_000 {
		s.Add(string(rune(i + 1000)))
	}
	if list, err := s.Sorted(); err == nil || list != nil || s.Err() == nil {
		t.Errorf("Sorted = %d strings, %v, Err = %v, want no strings and errors", len(list), err, s.Err())
	}
	h.Close()
	empty(t, a)
}

// TestGivenBytesAreAvailable checks that bytes that a request released are available to others
// before it ends, except for a few that it keeps for its next Take.
func TestGivenBytesAreAvailable(t *testing.T) {
	for _, left := range []int64{0, 1, 1 << 20} {
		a := NewAccount(64<<20, nil)
		h := a.Begin(Request{Tenant: "a"})
		if err := h.Take(8 << 20); err != nil {
			t.Fatal(err)
		}
		if h.Give(8<<20 - left); a.Used() > left+2*step {
			t.Errorf("%d bytes used, %d held", left, a.Used())
		}
		if err := h.Take(1 << 20); err != nil {
			t.Error(err)
		}
		if h.Close(); a.Used() != 0 {
			t.Errorf("%d bytes held at the end, want 0", a.Used())
		}
	}
}

// TestEndHeaviestStuck checks that another read is ended if the memory of the heaviest one is not
// released though it was ended, because its client does not read the response.
func TestEndHeaviestStuck(t *testing.T) {
	a := NewAccount(1000*mb, nil)
	stuck, also, other := a.Begin(Request{Tenant: "a"}), a.Begin(Request{Tenant: "a"}), a.Begin(Request{Tenant: "b"})
	ended := false
	other.OnEnd(func(error) { ended = true })
	if err := errors.Join(stuck.Take(20*mb), also.Take(15*mb), other.Take(10*mb)); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{20, 20, 20, 15, 15, 15, 10} {
		if _, held := a.EndHeaviest(mb); held != want*mb {
			t.Errorf("call %d: a request with %d bytes was ended, want %d MiB", i, held, want)
		}
	}
	if !ended {
		t.Error("the other request was not ended")
	}
	for _, h := range []*Holding{stuck, also, other} {
		h.Close()
	}
	empty(t, a)
}

// TestRejectedCount checks that each rejection is counted once. A request that fits is not counted, even if the
// step by which holdings grow does not fit.
func TestRejectedCount(t *testing.T) {
	for _, c := range []struct {
		limit string
		req   Request
		fits  int64 // bytes that fit in an account of 2.5 steps
	}{
		{"tenant", Request{Tenant: "a", Limit: step + 10}, step + 10},
		{"tenant", Request{Tenant: "a", Limit: step + 10, Write: true}, step + 10},
		{"process", Request{Internal: true}, 2*step + step/2},
	} {
		a := NewAccount(2*step+step/2, nil)
		h := a.Begin(c.req)
		if err := h.Take(c.fits); err != nil {
			t.Errorf("%+v: %d bytes: %v", c.req, c.fits, err)
		}
		count := func() float64 {
			return testutil.ToFloat64(a.rejected.WithLabelValues("tenant")) + testutil.ToFloat64(a.rejected.WithLabelValues("process"))
		}
		if n := count(); n != 0 {
			t.Errorf("%+v: %g rejections were counted of a request that fits", c.req, n)
		}
		if err := h.Take(3 * step); err == nil {
			t.Errorf("%+v: more bytes than the limit are held", c.req)
		}
		if n := testutil.ToFloat64(a.rejected.WithLabelValues(c.limit)); n != 1 || count() != 1 {
			t.Errorf("%+v: %g rejections by the limit %s of %g, want 1 of 1", c.req, n, c.limit, count())
		}
		h.Close()
		empty(t, a)
	}
}
