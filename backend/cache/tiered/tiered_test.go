package tiered

import (
	"context"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/cachetest"
	"github.com/palliumhq/pallium/backend/cache/memory"
)

func inMemory(bytes int64) *memory.Cache { return memory.New(bytes, prometheus.NewRegistry()) }

func TestContract(t *testing.T) {
	cachetest.Run(t, cachetest.Subject{
		New:      func(testing.TB) cache.Cache { return New(inMemory(2<<20), inMemory(2<<20)) },
		TooLarge: 1 << 20, FairBytes: 2 << 20,
	})
}

// asked is a cache that records the keys of its look-ups.
type asked struct {
	cache.Cache
	keys []string
}

func (a *asked) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	a.keys = append(a.keys, keys...)
	return a.Cache.Get(ctx, id, keys)
}

// TestTiers checks that only values that the near cache does not have are looked up in the far one,
// and that they are then in the near one, for the same tenant.
func TestTiers(t *testing.T) {
	ctx := context.Background()
	near, far := inMemory(8<<20), &asked{Cache: inMemory(8 << 20)}
	c := New(near, far)
	c.Put(ctx, "t", "both", []byte("1"))
	far.Put(ctx, "t", "far", []byte("2"))
	if got := far.Cache.Get(ctx, "t", []string{"both"}); len(got) != 1 {
		t.Error("Put does not store into the far cache")
	}
	for i, want := range [][]string{{"far", "none"}, {"none"}} {
		far.keys = nil
		got := c.Get(ctx, "t", []string{"both", "far", "none"})
		if len(got) != 2 || string(got["both"]) != "1" || string(got["far"]) != "2" {
			t.Errorf("got %q", got)
		}
		if !slices.Equal(far.keys, want) {
			t.Errorf("call %d asked the far cache for %q, want %q", i, far.keys, want)
		}
	}
	far.keys = nil
	c.Get(ctx, "t", []string{"both"})
	if len(far.keys) != 0 || len(near.Get(ctx, "other", []string{"far"})) != 0 {
		t.Error("the far cache was asked without need, or another tenant has the value")
	}
}
