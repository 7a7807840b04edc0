package storetest

import (
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestMerge checks that samples of a day uploaded by several ingesters, floats and histograms,
// are read unchanged after they are merged, and that late samples lead to another generation.
func TestMerge(t *testing.T) {
	x := New(t, Ports{Bytes: 20_000})
	x.Push(map[tenant.ID]Data{"a": Window(Rand(), Day, 1, 6, 6), "b": Window(Rand(), Day, 2, 2, 2)}, "i1", "i2")
	x.Check("uploaded")
	x.Merge(Day)
	x.Check("merged")
	x.Push(map[tenant.ID]Data{"a": Window(Rand(), Day, 3, 6, 7)}, "i1")
	x.Merge(Day)
	x.Check("merged again")
	for id, want := range map[tenant.ID]uint32{"a": 2, "b": 1} {
		if m := x.Manifest(id, Day); m == nil || m.Version.Generation != want {
			t.Errorf("tenant %s: manifest %+v, want generation %d", id, m, want)
		}
	}
	x.Now = x.Now.AddDate(0, 0, 8)
	x.Must(x.Lifecycle.Sweep(t.Context()))
	x.NothingLeft("swept")
}
