package backfill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

var errDown = errors.New("the store is down")

// site contains the rows and the recorded writes of a test.
type site struct {
	t     *testing.T
	rules *index.Rules

	mu      sync.Mutex
	written map[int64]int // number of writes, by time of the slot
	fail    error         // error of writes
	wait    time.Duration // duration of each query
	pushed  func()        // called for each write, before it is recorded; may be nil
	mine    map[string]bool
	blocks  int
	stop    int // the process is stopped before this block; 0 = never
	cancel  context.CancelFunc
}

func newSite(t *testing.T) *site {
	store, err := memory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	ix, err := index.New(index.Options{Rows: store, Now: time.Now, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return &site{t: t, rules: ix.Rules, written: map[int64]int{}, mine: map[string]bool{}}
}

// start stores a group of a tenant, and starts its backfill over a number of slots, one per minute.
func (s *site) start(id tenant.ID, slots int) {
	if err := s.rules.Put(s.t.Context(), id, index.RuleGroup{Namespace: "n", Name: "g", YAML: "x"}, func(index.RuleSet) error { return nil }); err != nil {
		s.t.Fatal(err)
	}
	b := &index.Backfill{Tenant: id, Namespace: "n", Group: "g", Backfill: schema.Backfill{Start: 60_000, End: int64(slots) * 60_000}}
	if err := s.rules.StartBackfill(s.t.Context(), b); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine[string(id)] = true
}

// ranges is the Range function of a Backfill. It returns one series with a sample at each slot.
func (s *site) ranges(_ context.Context, id tenant.ID, _ string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
	time.Sleep(s.wait)
	if id == "wrong" {
		return nil, errors.New("rule is wrong")
	}
	var points []promql.FPoint
	for at := start; !at.After(end); at = at.Add(step) {
		points = append(points, promql.FPoint{T: at.UnixMilli()})
	}
	return promql.Matrix{{Metric: labels.FromStrings("tenant", string(id)), Floats: points}}, nil
}

func (s *site) push(ctx context.Context, _ *Group, entries []series.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blocks++; s.blocks == s.stop {
		s.cancel()
		return ctx.Err()
	}
	if s.fail != nil {
		return s.fail
	}
	if s.pushed != nil {
		s.pushed()
	}
	for _, e := range entries {
		for _, sample := range e.Samples {
			s.written[sample.T]++
		}
	}
	return nil
}

func (s *site) group(_ context.Context, b *index.Backfill, start, end time.Time) (*Group, error) {
	if b.Tenant == "none" {
		return nil, fmt.Errorf("%w: it was deleted", ErrNoGroup)
	}
	first := start.Add(time.Minute - 1).Truncate(time.Minute)
	return &Group{Tenant: b.Tenant, Rules: []rulefmt.Rule{{Record: "x", Expr: "y"}}, Interval: time.Minute, First: first, Last: end.Truncate(time.Minute)}, nil
}

func (s *site) jobs() *Jobs {
	return NewJobs(JobsOptions{Store: s.rules, Group: s.group, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Backfill: New(Options{Range: s.ranges, Push: s.push, Tenant: func(err error) bool { return strings.Contains(err.Error(), "wrong") }}),
		Mine: func(id tenant.ID, _, _ string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.mine[string(id)]
		}})
}

// run starts a process. The returned function stops it, and waits until it has ended.
func (s *site) run(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	done := make(chan struct{})
	j := s.jobs()
	go func() { defer close(done); j.Run(ctx) }()
	return func() { cancel(); <-done }
}

func (s *site) get(id tenant.ID) index.Backfill {
	b, ok, err := s.rules.Backfill(s.t.Context(), id, "n", "g")
	if err != nil || !ok {
		s.t.Fatalf("backfill of %s: %v, %v", id, ok, err)
	}
	return b
}

// TestJobs checks the results of four tenants' backfills: one succeeds, one fails because its rule is wrong, one fails because
// its group was deleted, and one is not run because another process evaluates the group.
func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		for _, id := range []tenant.ID{"ok", "wrong", "none", "elsewhere"} {
			s.start(id, 1000)
		}
		s.mine["elsewhere"] = false
		stop := s.run(t.Context())
		time.Sleep(2 * jobsInterval)
		stop()
		if b := s.get("ok"); b.State != schema.BackfillDone || b.Samples != 1000 || b.Done != b.End || len(s.written) != 1000 || b.Error != "" {
			t.Errorf("ok: %+v, %d slots were written", b, len(s.written))
		}
		if b := s.get("wrong"); b.State != schema.BackfillFailed || !strings.Contains(b.Error, "rule is wrong") {
			t.Errorf("wrong: %+v", b)
		}
		if b := s.get("none"); b.State != schema.BackfillFailed || !strings.Contains(b.Error, "it was deleted") {
			t.Errorf("none: %+v", b)
		}
		if b := s.get("elsewhere"); b.State != schema.BackfillRunning || b.Samples != 0 {
			t.Errorf("elsewhere: %+v", b)
		}
	})
}

// TestResumed checks that a backfill is continued after the process was stopped before any block, or writes failed for a
// while: every slot is written exactly once.
func TestResumed(t *testing.T) {
	const slots = 2000 // five blocks of 360, and one of 200
	for stopped := 1; stopped <= 6; stopped++ {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			s.stop = stopped
			s.start("a", slots)
			stop := s.run(t.Context())
			time.Sleep(2 * jobsInterval)
			stop()
			if b := s.get("a"); b.State != schema.BackfillRunning || len(s.written) != (stopped-1)*360 || b.Samples != int64(len(s.written)) {
				t.Fatalf("stopped before block %d: %+v, %d slots were written", stopped, b, len(s.written))
			}
			s.fail = errDown
			stop = s.run(t.Context())
			time.Sleep(3 * jobsInterval)
			s.mu.Lock()
			s.fail = nil
			s.mu.Unlock()
			time.Sleep(2 * jobsInterval)
			stop()
			if b := s.get("a"); b.State != schema.BackfillDone || len(s.written) != slots {
				t.Errorf("resumed after block %d: %+v, %d slots were written", stopped, b, len(s.written))
			}
			for at, n := range s.written {
				if n != 1 {
					t.Fatalf("stopped before block %d: the slot %d was written %d times", stopped, at, n)
				}
			}
		})
	}
}

// TestDeletedWhileRunning checks that a backfill that was deleted, or replaced, stops.
func TestDeletedWhileRunning(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			s.start("a", 2000)
			b := s.get("a")
			s.pushed = func() {
				if _, err := s.rules.DeleteBackfill(t.Context(), "a", "n", "g"); err != nil {
					t.Error(err)
				}
				if !replaced {
					return
				}
				other := &index.Backfill{Tenant: "a", Namespace: "n", Group: "g", Backfill: schema.Backfill{Start: 60_000, End: 120_000}}
				if err := s.rules.StartBackfill(t.Context(), other); err != nil {
					t.Error(err)
				}
			}
			j := s.jobs()
			j.run(t.Context(), &b)
			now, ok, err := s.rules.Backfill(t.Context(), "a", "n", "g")
			if ok != replaced || err != nil || now.Done != 0 || len(s.written) != 360 {
				t.Errorf("replaced %t: the backfill exists: %t, %v, %+v; %d slots were written, want those of one block", replaced, ok, err, now,
					len(s.written))
			}
		})
	}
}

// TestTurns checks that long backfills of four tenants do not block the backfill of a fifth tenant.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.wait = time.Second
		for _, id := range []tenant.ID{"a", "b", "c", "d"} {
			s.start(id, 360*10_000)
		}
		stop := s.run(t.Context())
		time.Sleep(time.Minute)
		s.start("z", 360)
		time.Sleep(time.Minute)
		if b := s.get("z"); b.State != schema.BackfillDone {
			t.Errorf("a backfill of one block has not ended after a minute: %+v", b)
		}
		var done []int64
		for _, id := range []tenant.ID{"a", "b", "c", "d"} {
			done = append(done, s.get(id).Samples/360)
		}
		if slices.Min(done) < 50 || slices.Max(done)-slices.Min(done) > 15 {
			t.Errorf("the long backfills have done %d blocks in two minutes", done)
		}
		stop()
	})
}
