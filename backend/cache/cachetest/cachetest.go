// Package cachetest checks that an adapter of the cache fulfills the contract of the port.
package cachetest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
)

// Subject is an adapter under test.
type Subject struct {
	// New returns an empty cache that holds at least 1 MiB and stores values of 100 KiB.
	New func(t testing.TB) cache.Cache
	// TooLarge is the size in bytes of a value that the cache does not store.
	TooLarge int
	// Settle waits until the values that were put are stored; nil if they are when Put returns.
	Settle func(t testing.TB, c cache.Cache)
	// FairBytes is the size of a cache that New returns, if the adapter itself evicts and
	// keeps the values of small tenants; else 0.
	FairBytes int
}

// Run checks the contract.
func Run(t *testing.T, s Subject) {
	if s.Settle == nil {
		s.Settle = func(testing.TB, cache.Cache) {}
	}
	for name, check := range checks() {
		t.Run(name, func(t *testing.T) { check(t, s, s.New(t)) })
	}
}

// checks returns the parts of the contract, by name.
func checks() map[string]func(testing.TB, Subject, cache.Cache) {
	return map[string]func(testing.TB, Subject, cache.Cache){
		"values": values, "tenants": tenants, "replacement": replacement, "too large": tooLarge,
		"context": endedContext, "concurrent": concurrent, "fair": fair,
	}
}

// get returns the value of a key.
func get(c cache.Cache, id tenant.ID, key string) ([]byte, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	v, ok := c.Get(ctx, id, []string{key})[key]
	return v, ok
}

func put(t testing.TB, s Subject, c cache.Cache, id tenant.ID, key string, value []byte) {
	t.Helper()
	c.Put(context.Background(), id, key, value)
	s.Settle(t, c)
}

// keys are keys that an adapter may confuse: of any bytes and lengths.
func keys() []string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	long := strings.Repeat("k", 64<<10)
	return []string{
		"", "a", "A", "a ", "a\x00", "\x00a", "a:b", "{a}b", "{a}c", "\r\n", "*", "ключ", "\xff\xfe", "\xfe\xff",
		string(all), long, long[1:] + "x",
	}
}

// values checks that values are returned as they were put, by their keys.
func values(t testing.TB, s Subject, c cache.Cache) {
	want := map[string][]byte{}
	for i, k := range keys() {
		v := bytes.Repeat([]byte{byte(i), 0, 0xff, '\r', '\n'}, i*1000)
		want[k] = v // the first one is empty
		put(t, s, c, "a", k, v)
	}
	got := c.Get(context.Background(), "a", append(keys(), "unknown", "a"))
	for k, v := range want {
		if g, ok := got[k]; !ok || !bytes.Equal(g, v) {
			t.Errorf("key %.20q: got %d bytes, %t, want %d bytes", k, len(g), ok, len(v))
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d values, want %d", len(got), len(want))
	}
	if none := c.Get(context.Background(), "a", nil); len(none) != 0 {
		t.Errorf("got %d values for no keys", len(none))
	}
}

// tenants checks that a value is returned only to its tenant, even if another tenant and key
// concatenate to the same bytes.
func tenants(t testing.TB, s Subject, c cache.Cache) {
	put(t, s, c, "a", "bc", []byte("a/bc"))
	for _, other := range []struct {
		id  tenant.ID
		key string
	}{{"b", "bc"}, {"ab", "c"}, {"abc", ""}, {"", "abc"}, {"A", "bc"}} {
		if v, ok := get(c, other.id, other.key); ok {
			t.Errorf("tenant %q, key %q: got %q of another tenant", other.id, other.key, v)
		}
	}
	put(t, s, c, "ab", "c", []byte("ab/c"))
	for id, key := range map[tenant.ID]string{"a": "bc", "ab": "c"} {
		if v, _ := get(c, id, key); string(v) != string(id)+"/"+key {
			t.Errorf("tenant %q, key %q: got %q", id, key, v)
		}
	}
}

// replacement checks that the last value of a key is returned.
func replacement(t testing.TB, s Subject, c cache.Cache) {
	for _, n := range []int{10, 100000, 0, 1} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		put(t, s, c, "a", "k", want)
		if got, ok := get(c, "a", "k"); !ok || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %t, want the last value of %d bytes", len(got), ok, n)
		}
	}
}

// tooLarge checks that a value that is too large is not stored and does not affect others.
func tooLarge(t testing.TB, s Subject, c cache.Cache) {
	put(t, s, c, "a", "small", []byte("v"))
	put(t, s, c, "a", "large", make([]byte, s.TooLarge))
	if got, ok := get(c, "a", "large"); ok {
		t.Errorf("got a value of %d bytes, which is too large", len(got))
	}
	if got, _ := get(c, "a", "small"); string(got) != "v" {
		t.Errorf("got %q for the small value", got)
	}
}

// endedContext checks that a context that has ended makes every key a miss.
func endedContext(t testing.TB, s Subject, c cache.Cache) {
	put(t, s, c, "a", "k", []byte("v"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := c.Get(ctx, "a", []string{"k"}); len(got) != 0 {
		t.Errorf("got %d values with a context that has ended", len(got))
	}
	c.Put(ctx, "a", "other", []byte("v"))
	if got, _ := get(c, "a", "k"); string(got) != "v" {
		t.Errorf("got %q after a call whose context had ended", got)
	}
}

// concurrent checks that concurrent calls return only what was put under the key.
func concurrent(t testing.TB, _ Subject, c cache.Cache) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			id := tenant.ID(fmt.Sprint("t", g%3))
			for i := range 100 {
				key := fmt.Sprint("key", i%10)
				c.Put(ctx, id, key, []byte(fmt.Sprint(id, "/", key, "/", g, "/", i)))
				for k, v := range c.Get(ctx, id, []string{key, "key0"}) {
					if !strings.HasPrefix(string(v), fmt.Sprint(id, "/", k, "/")) {
						t.Errorf("tenant %s, key %s: got %q", id, k, v)
					}
				}
			}
		})
	}
	all.Wait()
}

// fair checks that a tenant that fills the cache does not evict the values of a small one.
func fair(t testing.TB, s Subject, c cache.Cache) {
	if s.FairBytes == 0 {
		t.Skip("the adapter does not evict")
	}
	put(t, s, c, "small", "k", []byte("v"))
	for i := range 4 * s.FairBytes / 50000 {
		put(t, s, c, "large", fmt.Sprint(i), make([]byte, 50000))
	}
	if got, _ := get(c, "small", "k"); string(got) != "v" {
		t.Errorf("the value of the small tenant was evicted: got %q", got)
	}
	if _, ok := get(c, "large", "0"); ok {
		t.Error("the first value of the tenant that filled the cache was not evicted")
	}
}
