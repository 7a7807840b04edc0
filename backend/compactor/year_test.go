package compactor

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/objects"
	objectscounted "github.com/palliumhq/pallium/backend/objects/counted"
	"github.com/palliumhq/pallium/backend/rows"
	rowscounted "github.com/palliumhq/pallium/backend/rows/counted"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// counting counts the reads of both ports.
type counting struct {
	rows    *rowscounted.Store
	objects *objectscounted.Store
}

// wrap wraps the ports with the counters.
func (c *counting) wrap() wrap {
	return wrap{rows: func(r rows.Store) rows.Store { c.rows = rowscounted.New(r); return c.rows },
		objects: func(o objects.Store) objects.Store { c.objects = objectscounted.New(o); return c.objects }}
}

// zero resets the counters.
func (c *counting) zero() {
	for _, n := range []*atomic.Int64{&c.rows.Reads, &c.rows.Cells, &c.objects.Gets, &c.objects.Bytes} {
		n.Store(0)
	}
}

// TestYear checks that the cost of opening the store, of querying one day and of looking for due
// compactions does not depend on the number of published days of many small tenants: the number of
// calls, cells and bytes is the same with 10, 100 and 365 days.
func TestYear(t *testing.T) {
	tenants := 10
	if n := os.Getenv("YEAR_TENANTS"); n != "" {
		if _, err := fmt.Sscan(n, &tenants); err != nil {
			t.Fatal(err)
		}
	}
	var count counting
	x := newWorld(t, count.wrap())
	x.Now = time.UnixMilli((testDay + 400) * series.DayMillis)
	type cost struct{ open, rows, cells, gets, bytes, sweep int64 }
	var first cost
	published := 0
	for _, days := range []int{10, 100, 365} {
		for ; published < days; published++ {
			for k := range tenants {
				publishSmall(t, x.Store, tenant.ID(fmt.Sprintf("tenant-%04d", k)), testDay+int64(published))
			}
		}
		count.zero()
		x.open(0)
		c := cost{open: count.rows.Reads.Load() + count.objects.Gets.Load()}
		count.rows.Reads.Store(0)
		start := time.Now()
		at := (testDay + 5) * series.DayMillis
		sel, err := x.Store.Select(ctx, series.Request{Tenant: "tenant-0007", MinTime: at, MaxTime: at + series.DayMillis - 1, Matchers: []*labels.Matcher{metric("small_total")}}, nil)
		if err != nil || len(sel.Series) != 3 {
			t.Fatalf("%d days: %d series, %v", days, len(sel.Series), err)
		}
		it := series.Iterator(sel.Series[0].Chunks, nil)
		n := 0
		for ; it.Next() != 0; n++ {
			continue
		}
		if n != 24 || it.Err() != nil {
			t.Fatalf("%d samples, %v", n, it.Err())
		}
		sel.Release()
		t.Logf("%d days of %d tenants: query took %s", days, tenants, time.Since(start))
		c.rows, c.cells, c.gets, c.bytes = count.rows.Reads.Load(), count.rows.Cells.Load(), count.objects.Gets.Load(), count.objects.Bytes.Load()
		count.rows.Reads.Store(0)
		if _, err := x.comp.Compact(ctx, Due); err != nil {
			t.Fatal(err)
		}
		c.sweep = count.rows.Reads.Load()
		if first == (cost{}) {
			first = c
			t.Logf("%+v", c)
		}
		if c != first {
			t.Errorf("with %d days %+v, with 10 days %+v", days, c, first)
		}
	}
}

func publishSmall(t *testing.T, s *store.Store, id tenant.ID, day int64) {
	t.Helper()
	g, err := s.NewGeneration(ctx, store.Catalog{Tenant: id, Day: day}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	var one column.Series
	for h := range int64(24) {
		one.T, one.V = append(one.T, day*series.DayMillis+h*3600_000), append(one.V, float64(h))
	}
	for i := range 3 {
		if err := g.Add(ctx, labels.FromStrings("__name__", "small_total", "i", fmt.Sprint(i)), &one); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Publish(ctx); err != nil {
		t.Fatal(err)
	}
}
