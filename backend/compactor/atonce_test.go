package compactor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/series"
)

// gate is an object store whose Puts of compacted packs wait until the gate opens.
type gate struct {
	objects.Store
	mu           sync.Mutex
	waiting, top int
	open         chan struct{} // closed when the gate is open
	want         int           // number of concurrent Puts that opens the gate
	fail         string        // part of the names whose Put fails
	during       func()        // called by each Put
}

func (g *gate) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	if !strings.HasPrefix(name, "l1/") {
		return g.Store.Put(ctx, name, path, crc)
	}
	if g.during != nil {
		g.during()
	}
	g.mu.Lock()
	g.waiting++
	if g.top = max(g.top, g.waiting); g.top == g.want {
		close(g.open)
		g.want = 0
	}
	g.mu.Unlock()
	select {
	case <-g.open:
	case <-ctx.Done():
		return objects.Object{}, ctx.Err()
	}
	g.mu.Lock()
	g.waiting--
	g.mu.Unlock()
	if g.fail != "" && strings.Contains(name, g.fail) {
		return objects.Object{}, faults.ErrInjected
	}
	return g.Store.Put(ctx, name, path, crc)
}

func manyTenants(n int) map[tenant.ID]data {
	all := map[tenant.ID]data{}
	for i := range n {
		all[tenant.ID(fmt.Sprintf("t%04d", i))] = data{"__name__=m": {{T: testDay*series.DayMillis + int64(i), V: float64(i)}}}
	}
	return all
}

// TestTenantsAtOnce checks that TenantsAtOnce tenants of a day are compacted concurrently, that
// the report counts all of them, and that only the failing tenant is in the error.
func TestTenantsAtOnce(t *testing.T) {
	g := &gate{open: make(chan struct{}), want: 6, fail: "t0007"}
	x := newWorld(t, wrap{atOnce: 6, objects: func(o objects.Store) objects.Store { g.Store = o; return g }})
	all := manyTenants(40)
	x.Push(all, "i1", "i2")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := x.comp.Compact(ctx, Due)
	if !errors.Is(err, faults.ErrInjected) || !strings.Contains(err.Error(), "t0007") {
		t.Fatalf("Compact() with one failing tenant: %v", err)
	}
	if r.Days != 1 || r.Published != 39 || r.Series != 39 || r.Samples != 39 {
		t.Errorf("report %+v", r)
	}
	if g.top != 6 {
		t.Errorf("%d tenants at once, want 6", g.top)
	}
	if f := x.comp.Status().Failing; len(f) != 1 || f[0].Tenant != "t0007" || f[0].Attempts != 1 {
		t.Errorf("failing tenants in the status: %+v", f)
	}
	x.Check("one tenant fails")
	if w, err := x.Store.Days(ctx); err != nil || len(w) != 1 || len(w[0].Receipts) != 2 {
		t.Errorf("receipts of the packs that the failing tenant needs: %+v, %v", w, err)
	}
	g.fail = ""
	x.Now = x.Now.Add(time.Hour)
	x.compact(Due)
	x.Check("all compacted")
	if f := x.comp.Status().Failing; len(f) != 0 {
		t.Errorf("failing tenants in the status: %+v", f)
	}
}

// TestInputBytes checks that tenants that together merge more than InputBytes are compacted one
// after the other, and that a tenant that alone exceeds InputBytes is compacted too.
func TestInputBytes(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	x := newWorld(t, wrap{objects: func(o objects.Store) objects.Store { g.Store = o; return g }})
	x.comp = New(Options{ID: "c1", Store: x.Store, Lifecycle: x.Lifecycle, Retention: x.comp.opts.Retention, TenantsAtOnce: 16, InputBytes: 1, Now: x.comp.opts.Now})
	g.during = func() {
		if x.comp.input.TryAcquire(1) {
			x.comp.input.Release(1)
			t.Error("input bytes are available while a large tenant is compacted")
		}
	}
	x.Push(manyTenants(40), "i1")
	if r := x.compact(Due); r.Published != 40 || g.top != 1 {
		t.Errorf("%d tenants published, up to %d concurrently; want 40, one after the other", r.Published, g.top)
	}
	x.Check("one after the other")
}

// slowRows is a row store with a delay for each round trip.
type slowRows struct {
	rows.Store
	trip time.Duration
}

func (s slowRows) ReadRows(ctx context.Context, r []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	time.Sleep(s.trip)
	return s.Store.ReadRows(ctx, r, f, visit)
}

func (s slowRows) Mutate(ctx context.Context, m rows.RowMutation) error {
	time.Sleep(s.trip)
	return s.Store.Mutate(ctx, m)
}

func (s slowRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	time.Sleep(s.trip)
	return s.Store.MutateRows(ctx, ms)
}

func (s slowRows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	time.Sleep(s.trip)
	return s.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

// BenchmarkManyTenants compacts a day of 1,000 tenants with a row store that has
// round trips of 2 ms, one tenant after the other and several concurrently.
func BenchmarkManyTenants(b *testing.B) {
	for _, atOnce := range []int{1, 0} {
		b.Run(fmt.Sprintf("atonce=%d", atOnce), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				slow := &slowRows{}
				x := newWorld(b, wrap{atOnce: atOnce, rows: func(r rows.Store) rows.Store { slow.Store = r; return slow }})
				x.Push(manyTenants(1000), "i1", "i2", "i3")
				slow.trip = 2 * time.Millisecond
				b.StartTimer()
				r, err := x.comp.Compact(ctx, Due)
				b.StopTimer()
				if err != nil || r.Published != 1000 {
					b.Fatalf("%d tenants published, %v", r.Published, err)
				}
				b.StartTimer()
			}
		})
	}
}
