package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// allocated returns the number of bytes allocated since the start of the
// process.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// untilEnd blocks a source until the request's context ends.
func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// occupy takes the only slot of a tenant.
func (b *reading) occupy(id tenant.ID) (leave func()) {
	b.t.Helper()
	leave, err := b.gate.Enter(context.Background(), id, &limits.Limits{MaxConcurrentQueries: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	return leave
}

// manyInstructions is a regular expression that takes 1 MB when it is compiled.
const manyInstructions = "(?:abcd){1000}"

// TestTenantsMemory checks that the response to a read that exceeds its tenant's memory limit is
// 422 with the limit, its value and the memory that the request needs.
func TestTenantsMemory(t *testing.T) {
	b := newReading(t, 1<<30)
	b.lim.MaxMemoryBytes = 30 << 10
	for _, c := range allReadRoutes() {
		if !c.noText {
			b.check(c.String(), do(b.h, as("acme", c.request(b, manyInstructions))), rejection{422, "limit max_memory_bytes of 30720 bytes exceeded: the request needs "})
		}
		if !c.onlyParses {
			b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{422, "limit max_memory_bytes of 30720 bytes exceeded: the request needs "})
		}
		b.clean(c.String())
	}
	// All requests of the tenant together.
	b.lim.MaxMemoryBytes = 4 << 20
	other := b.account.Begin(memory.Request{Tenant: "acme", Limit: b.lim.MaxMemoryBytes})
	if err := other.Take(4<<20 - 8<<10); err != nil {
		t.Fatal(err)
	}
	for _, c := range allReadRoutes() {
		if !c.onlyParses {
			w := do(b.h, as("acme", c.request(b, "")))
			b.check(c.String(), w, rejection{422, "limit max_memory_bytes of 4194304 bytes exceeded: the request needs "})
			b.check(c.String(), w, rejection{422, " bytes of memory, including the tenant's other requests in progress; "})
		}
	}
	other.Close()
	b.clean("afterwards")
}

// exhaust reserves nearly all memory of an account for other tenants.
func exhaust(a *memory.Account) (release func()) {
	var list []*memory.Holding
	for i := range 200 {
		h := a.Begin(memory.Request{Tenant: tenant.ID("other-" + strings.Repeat("x", i))})
		for n := int64(1 << 30); n > 16; n /= 2 {
			for h.Take(n) == nil {
			}
		}
		list = append(list, h)
	}
	return func() {
		for _, h := range list {
			h.Close()
		}
	}
}

// TestNoMemoryFree checks that the response to a read without free memory in the process is 503
// with Retry-After, and names no other tenant.
func TestNoMemoryFree(t *testing.T) {
	b := newReading(t, 16<<20)
	release := exhaust(b.account)
	for _, c := range allReadRoutes() {
		if !c.noText {
			b.check(c.String(), do(b.h, as("acme", c.request(b, manyInstructions))), rejection{503, "memory for requests is exhausted"})
		}
		if !c.onlyParses {
			b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{503, "memory for requests is exhausted"})
		}
	}
	release()
	b.clean("afterwards")
	for _, c := range allReadRoutes() {
		if w := do(b.h, as("acme", c.request(b, ""))); w.Code/100 != 2 {
			t.Errorf("%s after memory was released: %d %.300s", c, w.Code, w.Body)
		}
	}
}

// TestEnded checks the response to a read that the memory account of this process or of another one
// ends: it has status 422 and no Retry-After, and says what the client can do. The status of a
// deletion is 503, because it may have taken effect in part.
func TestEnded(t *testing.T) {
	b := newReading(t, 64<<20)
	end := func(ctx context.Context) error {
		h := memory.FromContext(ctx)
		if err := h.Take(1 << 20); err != nil {
			return err
		}
		b.account.EndHeaviest(1)
		return h.Take(1 << 20)
	}
	for how, source := range map[string]func(context.Context) error{
		"by the context": func(ctx context.Context) error { return errors.Join(end(ctx), untilEnd(ctx)) },
		"by the account": end,
		"by an ingester": func(context.Context) error { return fmt.Errorf("ingester-1: %w", memory.ErrEndedElsewhere) },
	} {
		b.source.set(source)
		for _, c := range allReadRoutes() {
			if c.onlyParses && !c.deletes() {
				continue
			}
			what, want := c.String()+", ended "+how, rejection{422, "nearly out of memory, and this query held most of it; select fewer series"}
			if c.deletes() {
				want = rejection{503, " again"}
			}
			w := do(b.h, as("acme", c.request(b, "")))
			b.check(what, w, want)
			if asJSON := c.pattern != "read" && !c.deletes(); asJSON && !strings.Contains(w.Body.String(), `"errorType":"execution"`) {
				t.Errorf("%s: %s, want errorType execution", what, w.Body)
			}
			b.clean(what)
		}
	}
}

// TestQueryTimeout checks that query_timeout ends reads that run and reads that
// wait for a slot.
func TestQueryTimeout(t *testing.T) {
	b := newReading(t, 64<<20)
	b.source.set(untilEnd)
	b.lim.QueryTimeout, b.lim.MaxConcurrentQueries = limits.Duration(20*time.Millisecond), 1
	check := func(what string, c readRoute, w *httptest.ResponseRecorder) {
		b.check(what, w, rejection{503, "limit query_timeout of 20ms exceeded"})
		if asJSON := c.pattern != "read"; asJSON && !strings.Contains(w.Body.String(), `"errorType":"timeout"`) {
			t.Errorf("%s: %s, want errorType timeout, as in Prometheus", what, w.Body)
		}
	}
	for _, c := range allReadRoutes() {
		switch {
		case c.deletes():
			b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{503, " again"})
		case !c.onlyParses:
			check(c.String(), c, do(b.h, as("acme", c.request(b, ""))))
		}
		leave := b.occupy("acme")
		check(c.String()+" that waits", c, do(b.h, as("acme", c.request(b, ""))))
		leave()
		b.clean(c.String())
	}
}

// TestHangUp checks that a read releases its memory and slot when its client
// disconnects, while it runs or waits.
func TestHangUp(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries = 1
	for _, c := range allReadRoutes() {
		for _, waits := range []bool{false, true} {
			leave := func() {}
			ctx, cancel := context.WithCancel(context.Background())
			b.source.set(func(ctx context.Context) error {
				cancel()
				return untilEnd(ctx)
			})
			if waits {
				leave = b.occupy("acme")
				go func() {
					kit.Until(t, "the read waits", func() bool { return b.waiting() > 0 })
					cancel()
				}()
			} else if c.onlyParses && !c.deletes() {
				cancel()
				continue
			}
			w := do(b.h, as("acme", c.request(b, "").WithContext(ctx)))
			if w.Code < 400 {
				t.Errorf("%s, waits %v: status %d", c, waits, w.Code)
			}
			leave()
			b.clean(c.String())
		}
	}
}

// TestPanic checks that a panic in a read fails only that request, and that its
// memory and slot are released.
func TestPanic(t *testing.T) {
	b := newReading(t, 64<<20)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.h.ServeHTTP(w, as("acme", r)) }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	defer srv.Close()
	panics := 0
	b.source.set(func(ctx context.Context) error {
		if err := memory.FromContext(ctx).Take(1 << 20); err != nil {
			return err
		}
		panics++
		panic("the source is broken")
	})
	want := 0
	for _, c := range allReadRoutes() {
		if c.onlyParses && !c.deletes() {
			continue
		}
		want++
		r := c.request(b, "")
		out, err := http.NewRequest(r.Method, srv.URL+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Fatal(err)
		}
		out.Header = r.Header
		out.GetBody = nil // so that the client does not send it again
		if res, err := srv.Client().Do(out); err == nil {
			if res.StatusCode < 500 {
				t.Errorf("%s: status %d", c, res.StatusCode)
			}
			_ = res.Body.Close()
		}
		kit.Until(t, c.String()+" has released its memory", func() bool { return b.account.Used() == 0 })
		b.clean(c.String())
	}
	if panics < want {
		t.Errorf("%d panics, want %d", panics, want)
	}
}

// TestSlots checks that beyond max_concurrent_queries a read waits, with memory only for its text,
// and then succeeds; that beyond max_queued_queries the response is 429; and that other tenants are
// not affected.
func TestSlots(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries, b.lim.MaxQueuedQueries = 1, 1
	for _, c := range allReadRoutes() {
		leave := b.occupy("acme")
		var w *httptest.ResponseRecorder
		var all sync.WaitGroup
		asked := 0
		b.source.set(func(context.Context) error { asked++; return nil })
		all.Go(func() { w = do(b.h, as("acme", c.request(b, ""))) })
		kit.Until(t, c.String()+" waits", func() bool { return b.waiting() == 1 })
		if n := b.account.Used(); n > 128<<10 {
			t.Errorf("%s holds %d bytes while it waits", c, n)
		}
		if asked != 0 {
			t.Errorf("%s reads before it has a slot", c)
		}
		b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{429, "limit max_queued_queries of 1 queries exceeded: 1 queries are waiting for the 1 that are running (limit max_concurrent_queries)"})
		if w := do(b.h, as("b", c.request(b, ""))); w.Code/100 != 2 {
			t.Errorf("%s of another tenant: %d %s", c, w.Code, w.Body)
		}
		leave()
		all.Wait()
		if w.Code/100 != 2 {
			t.Errorf("%s after waiting: %d %s", c, w.Code, w.Body)
		}
		b.clean(c.String())
	}
	b.lim.MaxQueuedQueries = 0
	leave := b.occupy("acme")
	for _, c := range allReadRoutes() {
		b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{429, "max_queued_queries"})
	}
	leave()
	b.clean("afterwards")
}

// TestMemoryBeforeSlots checks that a read without memory for its texts is rejected instead of
// waiting for a slot.
func TestMemoryBeforeSlots(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries, b.lim.MaxQueuedQueries, b.lim.MaxMemoryBytes = 1, 0, 256<<10
	leave := b.occupy("acme")
	for _, c := range allReadRoutes() {
		if !c.noText {
			b.check(c.String(), do(b.h, as("acme", c.request(b, manyInstructions))), rejection{422, "limit max_memory_bytes of 262144 bytes exceeded"})
		}
	}
	leave()
	b.clean("afterwards")
}

// TestSlotsOfSlowReads checks that reads of every kind hold their slot while
// they run.
func TestSlotsOfSlowReads(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxConcurrentQueries, b.lim.MaxQueuedQueries = 1, 0
	for _, c := range allReadRoutes() {
		if c.onlyParses && !c.deletes() {
			continue
		}
		inside, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		b.source.set(func(context.Context) error {
			once.Do(func() { close(inside) })
			<-goOn
			return nil
		})
		var all sync.WaitGroup
		all.Go(func() { do(b.h, as("acme", c.request(b, ""))) })
		kit.Receive(t, "a query runs", inside)
		b.check(c.String(), do(b.h, as("acme", httptest.NewRequest("GET", promAPI+"format_query?query=m", nil))), rejection{429, "max_queued_queries"})
		close(goOn)
		all.Wait()
		b.clean(c.String())
	}
}
