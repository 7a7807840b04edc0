package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// TestVersion checks that the version of a day changes with each upload, publication
// and expiry, and that the versions of other days and tenants stay the same.
func TestVersion(t *testing.T) {
	x := New(t, Faulty(&faults.Plan{}))
	ctx := context.Background()
	version := func(id tenant.ID, day int64) series.StoreVersion {
		v, err := x.Store.Version(ctx, id, day*series.DayMillis, (day+1)*series.DayMillis-1)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	seen := []series.StoreVersion{version("a", Day)}
	step := func(what string, do func()) {
		t.Helper()
		other, next := version("b", Day), version("a", Day+1)
		do()
		now := version("a", Day)
		for i := range seen {
			if now.Equal(&seen[i]) {
				t.Errorf("after %s the version is that of step %d", what, i)
			}
		}
		seen = append(seen, now)
		if o, n := version("b", Day), version("a", Day+1); !o.Equal(&other) || !n.Equal(&next) {
			t.Errorf("%s changed the version of another tenant or day", what)
		}
		if again := version("a", Day); !again.Equal(&now) {
			t.Errorf("after %s two reads give different versions", what)
		}
	}
	step("an upload", func() { x.Push(map[tenant.ID]Data{"a": Window(Rand(), Day, 1, 2, 2)}, "i1") })
	step("another upload", func() { x.Push(map[tenant.ID]Data{"a": Window(Rand(), Day, 2, 2, 2)}, "i1") })
	step("a publication", func() { x.Merge(Day) })
	step("an upload after it", func() { x.Push(map[tenant.ID]Data{"a": Window(Rand(), Day, 3, 2, 2)}, "i1") })
	step("a second publication", func() { x.Merge(Day) })
	x.Keep = time.Hour
	x.Now = x.Now.Add(1000 * 24 * time.Hour)
	step("the expiry of the day", func() {
		if out, err := x.Lifecycle.Expire(ctx, "a", lifecycle.Expiry{Now: x.Now, All: true}); err != nil || out.Days != 1 {
			t.Fatalf("%d days expired, %v; want 1", out.Days, err)
		}
	})
}
