package compactor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// guarded replaces the compactor by one of a new process with a clock guard. The test advances the
// clock by the returned function; the guard notices other changes of x.Now.
func (x *world) guarded() (pass func(time.Duration)) {
	var running time.Duration
	x.open(0)
	x.comp.opts.Clock = clock.New(clock.Options{Now: x.comp.opts.Now, Running: func() time.Duration { return running }})
	return func(d time.Duration) { x.Now, running = x.Now.Add(d), running+d }
}

// days returns the number of days with a manifest in the row store.
func (x *world) days() int {
	x.T.Helper()
	n := 0
	err := x.Rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{Qualifiers: []string{"m"}}, func(rows.Row) bool { n++; return true })
	if err != nil {
		x.T.Fatal(err)
	}
	return n
}

// TestClockAhead checks that neither a sweep, a compaction nor an operator deletes anything while the
// clock of the process is 400 days ahead, and that deletion resumes when the clock is right again.
func TestClockAhead(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Keep = 30 * 24 * time.Hour
	pass := x.guarded()
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	x.sweep()
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 5, 2, 2)}, "i1") // not compacted
	right := x.Now
	for _, days := range []int{400, 45} { // beyond CellLife and within it
		x.Now = right.AddDate(0, 0, days)
		x.sweep()
		x.compact(All)
		x.compact(Due)
		if err := x.comp.ExpireAll(ctx); err == nil {
			t.Error("ExpireAll() succeeded with a wrong clock")
		}
		if c := x.comp.Status().Clock; !strings.Contains(c, "ahead") {
			t.Errorf("Status().Clock = %q", c)
		}
		x.Now = right
		x.Check(fmt.Sprintf("the clock was %d days ahead", days))
		x.Verify()
	}
	if c := x.comp.Status().Clock; c != "" {
		t.Errorf("Status().Clock = %q with a right clock", c)
	}
	pass(40 * 24 * time.Hour)
	x.sweep()
	x.compact(Due)
	pass(9 * 24 * time.Hour)
	x.sweep()
	x.NothingLeft("40 days later")
}

// TestSealOfTheFuture checks that a compactor that finds a pack sealed in its future expires nothing
// until the pack is compacted.
func TestSealOfTheFuture(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Keep = 10 * 24 * time.Hour
	pass := x.guarded()
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	pass(20 * 24 * time.Hour)
	right := x.Now
	x.Now = right.Add(12 * time.Minute) // of an ingester
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay+20, 1, 2, 2)}, "i2")
	x.Now = right
	x.compact(Due)
	x.sweep()
	x.Check("an ingester's clock is ahead")
	x.compact(All) // then no receipt of the pack is left
	x.compact(Due)
	x.sweep()
	if m := x.Manifest("a", testDay); m != nil {
		t.Errorf("the day beyond retention still exists: %+v", m)
	}
}

// TestExpiryIsBounded checks that a process that was off for a long time, or whose clock is wrong from
// the start, expires a tenth of the days in 24 hours of running, and the rest on later days or when an
// operator requests it.
func TestExpiryIsBounded(t *testing.T) {
	const all = 40
	x := newWorld(t, wrap{})
	x.Now = time.UnixMilli((testDay + all) * series.DayMillis)
	x.Keep = 60 * 24 * time.Hour
	x.Want["a"] = nil
	for day := range int64(all) {
		publishSmall(t, x.Store, "a", testDay+day)
	}
	x.guarded()
	x.sweep()
	x.Now = x.Now.AddDate(0, 0, 80)
	pass := x.guarded()
	left := func(what string, want int) {
		t.Helper()
		x.sweep()
		x.sweep()
		if n := x.days(); n != want {
			t.Errorf("%s: %d days are left, want %d", what, n, want)
		}
	}
	left("at the start", 36)
	pass(23 * time.Hour)
	left("23 hours later", 36)
	if got := testutil.ToFloat64(x.comp.metrics.expired); got != 4 {
		t.Errorf("%v days expired, want 4", got)
	}
	if s := x.comp.Status(); s.Expired != 36 {
		t.Errorf("%d days wait for their deletion, want 36", s.Expired)
	}
	pass(time.Hour)
	left("a day later", 33)
	if err := x.comp.ExpireAll(ctx); err != nil {
		t.Fatal(err)
	}
	if n := x.days(); n != 0 || x.comp.Status().Expired != 0 {
		t.Errorf("after ExpireAll() %d days are left and %d wait, want 0", n, x.comp.Status().Expired)
	}
}

// TestLoweredRetention checks that days that are due because the retention was lowered expire at once,
// and that days of the same sweep that are due because time passed do not.
func TestLoweredRetention(t *testing.T) {
	const all = 40
	for _, known := range []bool{true, false} { // whether a sweep recorded the previous retention
		x := newWorld(t, wrap{})
		x.Now = time.UnixMilli((testDay + all) * series.DayMillis)
		x.Keep = 200 * 24 * time.Hour
		x.Want["a"] = nil
		for day := range int64(all) {
			publishSmall(t, x.Store, "a", testDay+day)
		}
		x.guarded()
		if known {
			x.sweep()
		}
		x.Keep = 10 * 24 * time.Hour
		x.sweep()
		if n := x.days(); n != 11 || x.comp.Status().Expired != 0 {
			t.Fatalf("%d days are left, %d wait, want 11 and none", n, x.comp.Status().Expired)
		}
		// The lowered retention does not explain days that are due later.
		x.Now = x.Now.AddDate(0, 0, 400)
		x.guarded()
		x.sweep()
		if n := x.days(); n != 9 {
			t.Errorf("400 days later %d days are left, want 9", n)
		}
	}
}

// TestSweepVisits checks that a sweep calls the row store only for tenants for which something may be
// due.
func TestSweepVisits(t *testing.T) {
	const tenants = 1000
	var count counting
	x := newWorld(t, count.wrap())
	x.Keep = 30 * 24 * time.Hour
	for i := range tenants {
		id := tenant.ID(fmt.Sprintf("t%04d", i))
		x.Want[id] = nil
		x.Deleted[id] = i%10 == 0
	}
	keep := map[tenant.ID]time.Duration{}
	x.comp.opts.Retention = func(_ context.Context, id tenant.ID) (time.Duration, error) { return x.Keep + keep[id], nil }
	sweep := func(what string, least, most int64) {
		t.Helper()
		count.rows.Reads.Store(0)
		x.sweep()
		if n := count.rows.Reads.Load(); n < least || n > most {
			t.Errorf("%s: %d reads of rows, want %d to %d", what, n, least, most)
		}
	}
	sweep("at the start", tenants, 5*tenants)
	sweep("at once again", 0, 5)
	keep["t0001"] = time.Hour
	sweep("another retention", 1, 10)
	x.Now = x.Now.Add(10 * time.Minute)
	sweep("ten minutes later: deleted tenants", tenants/10, tenants/10+5)
	x.Now = x.Now.Add(10 * time.Minute)
	sweep("20 minutes later", 0, 5)
	x.Now = x.Now.Add(24 * time.Hour)
	sweep("a day later", tenants, 5*tenants)
	x.Now = x.Now.Add(time.Minute)
	sweep("and a minute", 0, 5)
	delete(x.Want, "t0001")
	x.sweep()
	if n := len(x.comp.visits.active) + len(x.comp.visits.deleted); n != tenants-1 {
		t.Errorf("the state of %d tenants is kept, want %d", n, tenants-1)
	}
	if r, err := x.Lifecycle.Expire(ctx, "t0002", lifecycle.Expiry{Now: x.Now}); err != nil || r.Deletions {
		t.Errorf("expiry of tenant t0002: %+v, error %v; want no deletions", r, err)
	}
}

// TestSweepNotifications checks that once a day, a sweep deletes the expired notifications of a tenant, even if its
// Alertmanager is not running.
func TestSweepNotifications(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Want["a"] = nil
	a, key := x.Index.Alertmanagers, schema.NotificationKey("a", "group", "receiver", "webhook", 0)
	sent := schema.Notification{Sequence: 1, Entry: "e", Expires: x.Now.Add(time.Hour).UnixMilli()}
	if held, err := a.ReplaceNotification(ctx, key, schema.Notification{}, sent); !held || err != nil {
		t.Fatal(held, err)
	}
	for _, c := range []struct {
		after time.Duration
		want  schema.Notification
	}{{0, sent}, {24 * time.Hour, schema.Notification{}}} {
		x.Now = x.Now.Add(c.after)
		x.sweep()
		if got, err := a.Notification(ctx, key); got != c.want || err != nil {
			t.Errorf("after %s: %+v, %v, want %+v", c.after, got, err, c.want)
		}
	}
}
