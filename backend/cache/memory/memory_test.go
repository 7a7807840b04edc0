package memory

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/cachetest"
)

const mib = 1 << 20

func TestContract(t *testing.T) {
	cachetest.Run(t, cachetest.Subject{
		New:      func(testing.TB) cache.Cache { return New(2*mib, prometheus.NewRegistry()) },
		TooLarge: 2 * mib / maxPart, FairBytes: 2 * mib,
	})
}

// TestBytes compares, during random calls, the size of a cache with the sum of its keys and values,
// and checks that the cache knows the tenant with the most bytes.
func TestBytes(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	const most = 256 << 10
	c := New(most, prometheus.NewRegistry())
	for i := range 20000 {
		n := rnd.Intn(8)
		id := tenant.ID(fmt.Sprint("t", n))
		v := make([]byte, rnd.Intn(500), 500+rnd.Intn(300*(n+1)))
		c.Put(context.Background(), id, fmt.Sprint(rnd.Intn(100)), v)
		if i%100 == 0 {
			check(t, c, most)
		}
	}
	if len(c.tenants) != 8 {
		t.Errorf("%d tenants have values, want 8", len(c.tenants))
	}
}

// check counts the bytes of all keys and values, and compares them with the counts of the cache.
func check(t *testing.T, c *Cache, most int64) {
	t.Helper()
	sum := int64(0)
	for id, of := range c.tenants {
		mine := int64(tenantBytes)
		for _, k := range of.list.Keys() {
			v, _ := of.list.Peek(k)
			mine += int64(len(k)+cap(v)) + entryBytes
		}
		if mine != of.used || c.largest[of.place] != of || of.used > c.largest[0].used {
			t.Fatalf("tenant %s: counted %d bytes, has %d; the largest has %d", id, mine, of.used, c.largest[0].used)
		}
		sum += mine
	}
	if sum != c.used || sum > most || len(c.tenants) != len(c.largest) {
		t.Fatalf("counted %d bytes, the cache has %d of at most %d", sum, c.used, most)
	}
}

// TestFairness checks that tenants that put all the time get equal shares, whatever the
// sizes of their values, and that a tenant with less than its share loses nothing.
func TestFairness(t *testing.T) {
	c := New(4*mib, prometheus.NewRegistry())
	ctx := context.Background()
	for i := range 100 {
		c.Put(ctx, "small", fmt.Sprint(i), make([]byte, 1000))
	}
	for i := range 20000 {
		for n, size := range []int{100, 1000, 10000} {
			c.Put(ctx, tenant.ID(fmt.Sprint("t", n)), fmt.Sprint(i), make([]byte, size))
		}
	}
	if n := c.tenants["small"].list.Len(); n != 100 {
		t.Errorf("the small tenant has %d values, want 100", n)
	}
	share := (4*mib - c.tenants["small"].used) / 3
	for n := range 3 {
		if used := c.tenants[tenant.ID(fmt.Sprint("t", n))].used; used < share-30000 || used > share+30000 {
			t.Errorf("tenant t%d has %d bytes, want about %d", n, used, share)
		}
	}
}

// TestRecency checks that a value that is used between all writes is not evicted.
func TestRecency(t *testing.T) {
	c := New(1*mib, prometheus.NewRegistry())
	ctx := context.Background()
	for i := range 50 {
		c.Put(ctx, "a", fmt.Sprint(i), make([]byte, 50000))
		if got := c.Get(ctx, "a", []string{"0"}); len(got) != 1 {
			t.Fatalf("value 0 was evicted after %d others, although it is used", i)
		}
	}
}

// TestEmptyTenants checks that a tenant without values takes no space.
func TestEmptyTenants(t *testing.T) {
	c := New(1*mib, prometheus.NewRegistry())
	for i := range 100 { // each evicts all values of an earlier tenant
		c.Put(context.Background(), tenant.ID(fmt.Sprint(i)), "k", make([]byte, 100000))
	}
	check(t, c, mib)
	if len(c.tenants) > 10 || len(c.largest) > 10 {
		t.Errorf("%d tenants, want at most 10", len(c.tenants))
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := New(1*mib, reg)
	for i := range 30 {
		c.Put(context.Background(), "a", fmt.Sprint(i), make([]byte, 100000))
	}
	if got, want := testutil.ToFloat64(c.evicted), float64(30-c.tenants["a"].list.Len()); got != want || got == 0 {
		t.Errorf("evicted %v, want %v", got, want)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pallium_results_cache_bytes" && f.Metric[0].Gauge.GetValue() != float64(c.used) {
			t.Errorf("bytes = %v, want %d", f.Metric[0].Gauge.GetValue(), c.used)
		}
	}
}

// BenchmarkEvict measures a Put that evicts, with 10,000 tenants.
func BenchmarkEvict(b *testing.B) {
	const tenants = 10000
	c := New(tenants*2000, prometheus.NewRegistry())
	ids := make([]tenant.ID, tenants)
	for i := range ids {
		ids[i] = tenant.ID(fmt.Sprint(i))
	}
	for i := 0; b.Loop(); i++ {
		c.Put(context.Background(), ids[i%tenants], fmt.Sprint(i), make([]byte, 1000))
	}
}
