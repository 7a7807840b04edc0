package ingester

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// TestVersion checks that a change of samples before the bound changes the counter
// `Changes`, that a change of samples between the bound and the recent bound changes the
// counter `Recent`, and that other changes of samples affect neither.
func TestVersion(t *testing.T) {
	b := newBench(t)
	bound := series.WindowStart(b.now.Add(-SealDelay).UnixMilli())
	m := labels.FromStrings("__name__", "m")
	at := func(t int64) series.Entry { return entry(m, f(t, float64(t))) }
	last := b.ing.Version("t")
	if last.Bound != bound || last.Instance != "ingester-1" {
		t.Fatalf("version %+v, want the bound %d", last, bound)
	}
	changed := func(what string, settled, recent bool, do func()) {
		t.Helper()
		other := b.ing.Version("other")
		do()
		now := b.ing.Version("t")
		if (now.Changes != last.Changes) != settled || (now.Recent != last.Recent) != recent {
			t.Errorf("%s: from %+v to %+v, want Changes to change: %t, Recent to change: %t", what, last, now, settled, recent)
		}
		if now.Bound < last.Bound || now.RecentBound < last.RecentBound || now.Epoch != last.Epoch {
			t.Errorf("%s: a bound decreased or the version's Epoch (one per start of the process) changed: from %+v to %+v", what, last, now)
		}
		if o := b.ing.Version("other"); o.Changes != other.Changes || o.Recent != other.Recent {
			t.Errorf("%s of one tenant changed the version of another", what)
		}
		last = now
	}
	changes := func(what string, want bool, do func()) {
		t.Helper()
		changed(what, want, false, do)
	}
	recent := b.now.Add(-RecentDelay).Truncate(recentStep).UnixMilli()
	if recent <= bound || last.RecentBound != recent {
		t.Fatalf("version %+v, want the recent bound %d", last, recent)
	}
	changes("a current sample", false, func() { b.push("t", at(b.now.UnixMilli())) })
	changes("a sample at the recent bound", false, func() { b.push("t", at(recent)) })
	changed("a sample before the recent bound", false, true, func() { b.push("t", at(recent-1)) })
	changed("a sample at the bound", false, true, func() { b.push("t", at(bound)) })
	changes("a late sample", true, func() { b.push("t", at(bound-1)) })
	changes("a very old sample", true, func() { b.push("t", at(bound-1000*series.DayMillis)) })
	changes("a seal", false, func() {
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	changes("a deletion", true, func() {
		ts := schema.NewTombstone(1, 0, bound, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}, 0)
		if err := b.ing.Delete("t", ts); err != nil {
			t.Fatal(err)
		}
	})
	b.set(b.now.Add(3 * time.Hour))
	changes("a sample before the bound, which has moved", true, func() { // Version moves the bound
		b.ing.Version("t")
		b.push("t", at(bound+time.Hour.Milliseconds()))
	})
	moved := last.Bound
	movedRecent := last.RecentBound
	b.set(b.now.Add(-3 * time.Hour))
	changed("a recent sample that was current before the clock was set back", false, true, func() { b.push("t", at(movedRecent-1)) })
	changes("a sample that was current before the clock was set back", true, func() { b.push("t", at(moved-1)) })
	if last.Bound != moved || last.RecentBound != movedRecent {
		t.Errorf("the bounds went from %d and %d to %d and %d with the clock", moved, movedRecent, last.Bound, last.RecentBound)
	}
	b.crash()
	if now := b.ing.Version("t"); now.Epoch == last.Epoch {
		t.Error("the version's Epoch (one per start of the process) is the same after a restart")
	}
}

// TestVersionOfExpiredPacks checks that the removal of local packs by retention
// changes the version of their tenants.
func TestVersionOfExpiredPacks(t *testing.T) {
	b := newBench(t)
	b.push("t", entry(labels.FromStrings("__name__", "m"), f(b.now.UnixMilli(), 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	before, other := b.ing.Version("t"), b.ing.Version("other")
	b.lim.Retention = 1
	if err := b.ing.Sweep(); err != nil {
		t.Fatal(err)
	}
	b.set(b.now.Add(time.Hour))
	if err := b.ing.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := b.ing.packCount(); n != 0 {
		t.Fatalf("%d packs are left, want 0", n)
	}
	if b.ing.Version("t").Changes == before.Changes || b.ing.Version("other").Changes != other.Changes {
		t.Error("the removal of packs did not change the version of their tenant, or changed that of another")
	}
}

// TestVersionRaisedDuringPush checks a push that runs concurrently with a call of version. That
// call raises the bound above the push's samples. If the version it returns does not count the
// push, a cached result from before the push depends only on Changes from then on, so Changes
// must increase.
func TestVersionRaisedDuringPush(t *testing.T) {
	const bound, sample, recent = 100, 110, 200
	for i := range 20_000 {
		c := newChangeLog()
		before := c.version("t", bound, recent)
		var begun atomic.Int32
		together := func() {
			begun.Add(1)
			for spins := 0; begun.Load() < 2; spins++ { // both continue at the same moment
				if spins > 10_000 {
					runtime.Gosched()
				}
			}
		}
		var push sync.WaitGroup
		push.Go(func() {
			together()
			c.pushed("t", sample)
		})
		together()
		for range i % 16 {
			c.bound.Load() // a little later
		}
		during := c.version("t", recent, recent+100)
		push.Wait()
		after := c.version("t", recent, recent+100)
		if during.Changes == before.Changes && during.Recent == before.Recent && after.Changes == during.Changes {
			t.Fatalf("try %d: the versions %+v, %+v and %+v do not count the push", i, before, during, after)
		}
	}
}
