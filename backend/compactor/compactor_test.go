package compactor

import (
	"math/rand/v2"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestEquality checks that samples are unchanged in L0, after compaction to L1, in a second
// generation with late samples, and after a restart.
func TestEquality(t *testing.T) {
	for _, packBytes := range []int64{0, 20_000} {
		for seed := range uint64(3) {
			rng := rand.New(rand.NewPCG(seed, 7))
			x := newWorld(t, wrap{bytes: packBytes})
			for w := range 3 {
				x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, w, 4, 20), "b": storetest.Window(rng, testDay, w, 7, 3)}, "i1", "i2", "i3")
			}
			x.Check("L0")
			x.compact(Due)
			if m := x.Manifest("a", testDay); m == nil || m.Version.Generation != 1 {
				t.Fatalf("manifest %+v", m)
			}
			x.Check("L1")
			x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, 1, 5, 21)}, "i1", "i2")
			x.Check("late L0")
			x.compact(All)
			if m := x.Manifest("a", testDay); m.Version.Generation != 2 {
				t.Fatalf("manifest %+v", m)
			}
			x.Check("second generation")
			x.open(packBytes)
			x.Check("after restart")
		}
	}
}
