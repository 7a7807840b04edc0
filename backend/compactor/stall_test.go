package compactor

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// stopwatch is a clock that advances with each call of the ports.
type stopwatch struct{ seconds atomic.Int64 }

func (s *stopwatch) now() time.Time { return time.Unix(1_700_000_000+s.seconds.Load(), 0) }

// watched replaces the worker of a compactor by one with the clock of the test.
func watched(x *world, clock *stopwatch, log *bytes.Buffer) *progress.Worker {
	w := progress.NewWorker(progress.Options{Metric: "stalled_seconds", Help: "h", Message: "no progress", Now: clock.now, Logger: slog.New(slog.NewTextHandler(log, nil))})
	x.comp.work = w
	return w
}

// TestSlowIsNotStalled checks that uploads, compactions and sweeps do not count as stalled when every
// call of a port takes 50 seconds, since each call that returns is progress.
func TestSlowIsNotStalled(t *testing.T) {
	clock := &stopwatch{}
	in := &faults.Plan{}
	x := newWorld(t, faulty(in))
	work := watched(x, clock, &bytes.Buffer{})
	calls := 0
	in.Before(func(_ int, name string) {
		calls++
		clock.seconds.Add(50)
		if d := work.Stalled(); d != 0 {
			t.Errorf("call %d, %s: stalled for %s; the previous call did not count as progress", calls, name, d)
		}
	})
	d := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}
	x.Expect(d)
	u := x.Seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	upload, task := work.Begin(ctx, "upload")
	if err := x.Store.Upload(upload, u); err != nil {
		t.Fatal(err)
	}
	task.End()
	if _, err := x.comp.Compact(ctx, All); err != nil {
		t.Fatal(err)
	}
	x.Deleted["a"] = true
	x.sweep()
	in.Before(nil)
	names := map[string]bool{}
	for _, n := range in.Calls() {
		names[n] = true
	}
	for _, n := range []string{"ReadRows", "Mutate", "MutateRows", "CheckAndMutate", "DeletePrefix", "Put", "Get", "Stat", "List", "Delete"} {
		if !names[n] {
			t.Errorf("%s was not called: the test does not cover it", n)
		}
	}
}

// TestStalled checks that a call that hangs stalls the compaction until its context is done, that
// the stall is logged once, and that a waiting compaction returns when its own context is done.
func TestStalled(t *testing.T) {
	for _, call := range []string{"ReadRows", "Get", "Put", "MutateRows"} {
		t.Run(call, func(t *testing.T) {
			clock, log := &stopwatch{}, &bytes.Buffer{}
			in := &faults.Plan{}
			x := newWorld(t, faulty(in))
			work := watched(x, clock, log)
			x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
			entered := make(chan struct{})
			var once sync.Once
			in.HangAt(call)
			in.Before(func(_ int, name string) {
				if name == call {
					once.Do(func() { close(entered) })
				}
			})
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { _, err := x.comp.Compact(ctx, All); ended <- err }()
			select {
			case <-entered:
			case err := <-ended:
				t.Fatalf("the compaction ended without the hanging call: %v", err)
			}
			if work.Check(); work.Stalled() != 0 || log.Len() > 0 {
				t.Errorf("stalled at once: %s", log)
			}
			clock.seconds.Add(61)
			if work.Check(); work.Stalled() != 61*time.Second || strings.Count(log.String(), "no progress") != 1 {
				t.Errorf("after a minute: stalled for %s, logged %q", work.Stalled(), log)
			}
			waiter, give := context.WithCancel(context.Background())
			give()
			if _, err := x.comp.Compact(waiter, All); err == nil || !strings.Contains(err.Error(), "running compaction") {
				t.Errorf("Compact() while another compaction runs: %v", err)
			}
			cancel()
			if err := <-ended; err == nil {
				t.Error("the compaction succeeded, want an error of its context")
			}
			if work.Stalled() != 0 {
				t.Error("still stalled after the compaction ended")
			}
			in.Heal()
			x.compact(All)
			x.Check("healed")
		})
	}
}
