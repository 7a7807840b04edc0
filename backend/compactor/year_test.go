package compactor

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// countedRows and countedObjects count the calls and bytes of a query, which do
// not depend on how busy the machine is.
type countedRows struct {
	rows.Store
	calls, cells *atomic.Int64
}

func (c countedRows) ReadRows(ctx context.Context, r []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	c.calls.Add(1)
	return c.Store.ReadRows(ctx, r, f, func(r rows.Row) bool { c.cells.Add(int64(len(r.Cells))); return visit(r) })
}

type countedObjects struct {
	objects.Store
	calls, bytes *atomic.Int64
}

func (c countedObjects) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	c.calls.Add(1)
	c.bytes.Add(int64(n))
	return c.Store.Get(ctx, name, off, n)
}

// TestYear publishes days for many small tenants and shows that neither opening
// the store nor a query of one day reads more when there are more days and
// tenants: the same calls, cells and bytes with 10, 100 and 365 days.
func TestYear(t *testing.T) {
	tenants := 10
	if n := os.Getenv("YEAR_TENANTS"); n != "" {
		if _, err := fmt.Sscan(n, &tenants); err != nil {
			t.Fatal(err)
		}
	}
	var calls, cells, gets, bytes atomic.Int64
	x := newWorld(t, wrap{rows: func(r rows.Store) rows.Store { return countedRows{r, &calls, &cells} },
		objects: func(o objects.Store) objects.Store { return countedObjects{o, &gets, &bytes} }})
	x.now = time.UnixMilli((testDay + 400) * series.DayMillis)
	type cost struct{ open, rows, cells, gets, bytes, sweep int64 }
	var first cost
	published := 0
	for _, days := range []int{10, 100, 365} {
		for ; published < days; published++ {
			for k := range tenants {
				publishSmall(t, x.store, tenant.ID(fmt.Sprintf("tenant-%04d", k)), testDay+int64(published))
			}
		}
		zero(&calls, &cells, &gets, &bytes)
		x.open(0)
		c := cost{open: calls.Load() + gets.Load()}
		zero(&calls)
		start := time.Now()
		at := (testDay + 5) * series.DayMillis
		sel, err := x.store.Select(ctx, series.Request{Tenant: "tenant-0007", MinTime: at, MaxTime: at + series.DayMillis - 1, Matchers: []*labels.Matcher{metric("small_total")}}, nil)
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
		c.rows, c.cells, c.gets, c.bytes = calls.Load(), cells.Load(), gets.Load(), bytes.Load()
		zero(&calls)
		if _, err := x.comp.Compact(ctx, Due); err != nil {
			t.Fatal(err)
		}
		c.sweep = calls.Load()
		if first == (cost{}) {
			first = c
			t.Logf("%+v", c)
		}
		if c != first {
			t.Errorf("with %d days %+v, with 10 days %+v", days, c, first)
		}
	}
}

func zero(counters ...*atomic.Int64) {
	for _, c := range counters {
		c.Store(0)
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
