package compactor

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
	"github.com/palliumhq/pallium/test/kit"
)

// deleteSeries deletes a metric of a tenant, also from the expected data.
func (x *world) deleteSeries(t tenant.ID, name string) schema.Tombstone {
	x.T.Helper()
	d, err := x.Lifecycle.ReserveDeletion(ctx, t, math.MinInt64, math.MaxInt64, [][]*labels.Matcher{{metric(name)}})
	if err != nil {
		x.T.Fatal(err)
	}
	x.Must(nil, x.Lifecycle.ActivateDeletion(ctx, t, d))
	for s := range x.Want[t] {
		if strings.Contains(s, name) {
			delete(x.Want[t], s)
		}
	}
	return d
}

// askToClean requests the removal of deleted series and checks for how many days.
func (x *world) askToClean(t tenant.ID, want int) {
	x.T.Helper()
	if n, err := x.Lifecycle.CleanDeletions(ctx, t); err != nil || n != want {
		x.T.Fatalf("deleted series of tenant %s are to be removed from %d days, %v, want %d", t, n, err, want)
	}
}

// stored returns the metrics in all packs that the catalog of a tenant's day names, by
// reading the packs.
func (x *world) stored(t tenant.ID, day int64) map[string]bool {
	x.T.Helper()
	c, err := x.Store.Catalog(ctx, t, day)
	x.Must(nil, err)
	out := map[string]bool{}
	scan := func(l store.L0) {
		r, err := x.Store.OpenPack(ctx, l.ID, l.Object, l.ObjectSize)
		x.Must(nil, err)
		defer func() { x.Must(nil, r.Release()) }()
		for i, sec := range r.Info().Sections {
			if sec.Tenant != t || sec.Day != day {
				continue
			}
			in := &input{name: l.Object, scan: r.Scan(i), gone: func(labels.Labels) []series.Interval { return nil }}
			for m := newMerger(ctx, []*input{in}); m.next(ctx); {
				out[m.labels.Get("__name__")] = true
			}
		}
	}
	for i := range c.L0 {
		scan(c.L0[i])
	}
	if c.Manifest != nil {
		for i := range c.Manifest.Packs {
			p := &c.Manifest.Packs[i]
			l := store.L0{}
			l.ID, l.Object, l.ObjectSize = p.ID, p.Object, p.Size
			scan(l)
		}
	}
	return out
}

func (x *world) cleans() (n int) {
	x.T.Helper()
	days, err := x.Store.Days(ctx)
	x.Must(nil, err)
	for i := range days {
		n += len(days[i].Cleans)
	}
	return n
}

// TestCleanDay tests a day that has not ended: a tenant deletes a series and requests
// its removal now. The next run removes it, for this tenant only, and later runs
// remove it from packs that arrive later. The request is deleted once no such pack can
// arrive any more. It does not affect the compaction of the day when the day has
// ended.
func TestCleanDay(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Now = time.UnixMilli(testDay * series.DayMillis).Add(12 * time.Hour)
	both := map[tenant.ID]data{
		"a": storetest.Window(rng(), testDay, 1, 3, 3),
		"b": storetest.Window(rng(), testDay, 1, 3, 3),
	}
	x.Push(both, "i1", "i2")
	x.askToClean("a", 0)
	more := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 2, 3, 3)}
	late := x.Seal("i1", more, 0)
	x.Expect(more) // it is in an ingester until it is uploaded
	d := x.deleteSeries("a", "metric_0")
	x.compact(Due)
	if x.Manifest("a", testDay) != nil || !x.stored("a", testDay)["metric_0"] {
		t.Fatal("an open day was compacted, or a deleted series removed, without a request")
	}
	x.askToClean("b", 0)
	x.askToClean("a", 1)
	x.askToClean("a", 0) // already requested
	x.compact(Due)
	if m := x.Manifest("a", testDay); m == nil || m.Tombstone != d.Number {
		t.Fatalf("manifest %+v", m)
	}
	if got := x.stored("a", testDay); got["metric_0"] || !got["metric_1"] {
		t.Errorf("after the request, packs have the metrics %v", got)
	}
	if x.Manifest("b", testDay) != nil {
		t.Error("another tenant's open day was compacted")
	}
	x.Must(nil, x.Store.Upload(ctx, late))
	if !x.stored("a", testDay)["metric_0"] {
		t.Fatal("the pack from before the deletion has no deleted series")
	}
	x.compact(Due)
	if x.stored("a", testDay)["metric_0"] {
		t.Error("packs that arrived after the request still have the deleted series")
	}
	generation := x.Manifest("a", testDay).Version
	fresh := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 3, 3, 3)}
	x.Expect(fresh)
	x.Must(nil, x.Store.Upload(ctx, x.Seal("i1", fresh, d.Number)))
	x.Now = x.Now.Add(cleanTime)
	x.compact(Due)
	if x.cleans() != 0 || x.Manifest("a", testDay).Version != generation {
		t.Errorf("%d requests are left, want none; version %+v, want still %+v", x.cleans(), x.Manifest("a", testDay).Version, generation)
	}
	x.askToClean("a", 0)
	x.Check("cleaned")
	x.Now = x.Now.Add(30 * time.Hour)
	x.compact(Due)
	if m := x.Manifest("b", testDay); m == nil {
		t.Error("the day of the other tenant is not compacted when it is due")
	}
	if days, err := x.Store.Days(ctx); err != nil || len(days) != 0 {
		t.Errorf("work is left: %+v, %v", days, err)
	}
	x.Check("the day has ended")
}

// TestCleanAgain checks that the series of each deletion can be removed at once, also
// from a day that was published a moment ago, and that a removal that fails is retried
// only after a delay.
func TestCleanAgain(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Now = time.UnixMilli(testDay * series.DayMillis).Add(12 * time.Hour)
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 3, 3)}, "i1")
	attempts, failing := 0, false
	keep := x.comp.opts.Retention
	x.comp.opts.Retention = func(ctx context.Context, id tenant.ID) (time.Duration, error) {
		if failing {
			attempts++
			return 0, faults.ErrInjected
		}
		return keep(ctx, id)
	}
	d := x.deleteSeries("a", "metric_0")
	x.askToClean("a", 1)
	x.compact(Due)
	if x.stored("a", testDay)["metric_0"] {
		t.Error("the first series is still stored")
	}
	x.Now = x.Now.Add(time.Second)
	more := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 2, 3, 3)}
	x.Expect(more)
	x.Must(nil, x.Store.Upload(ctx, x.Seal("i2", more, d.Number)))
	x.deleteSeries("a", "metric_1")
	x.askToClean("a", 1)
	failing = true
	for range 3 {
		if _, err := x.comp.Compact(ctx, Due); err == nil && attempts == 0 {
			t.Fatal("no error and no attempt")
		}
	}
	if attempts != 1 {
		t.Errorf("%d attempts within a second, want 1", attempts)
	}
	x.Now = x.Now.Add(cleanTime)
	for range 2 { // the second run does not retry yet
		_, _ = x.comp.Compact(ctx, Due)
	}
	if attempts != 2 || x.cleans() != 1 {
		t.Errorf("%d attempts, want 2; %d requests are left, want 1", attempts, x.cleans())
	}
	failing = false
	x.Now = x.Now.Add(cleanTime) // it is due again, and the request older than cleanTime
	x.compact(Due)
	if x.stored("a", testDay)["metric_1"] || x.cleans() != 0 {
		t.Error("the second series is still stored, or the request is kept")
	}
	x.Check("without both")
}

// TestWake checks that a running compactor starts at once when it is woken.
func TestWake(t *testing.T) {
	x := newWorld(t, wrap{})
	x.comp.opts.Interval = time.Hour
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 3, 3)}, "i1")
	x.compact(Due)
	stop, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	before := x.comp.Status().LastRun
	x.Now = x.Now.Add(time.Minute)
	go func() { x.comp.Run(stop); close(ended) }()
	kit.Until(t, "the compactor has run once", func() bool { return x.comp.Status().LastRun.After(before) })
	x.deleteSeries("a", "metric_0")
	x.askToClean("a", 1)
	x.comp.Wake()
	x.comp.Wake()
	kit.Until(t, "the series are removed", func() bool { return !x.stored("a", testDay)["metric_0"] })
	cancel()
	kit.Receive(t, "the end of Run", ended)
}
