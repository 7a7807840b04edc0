package recovery

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// TestLeaving checks the order of steps: pushes are stopped before the last check for
// pending windows, and accepted again if leaving fails.
func TestLeaving(t *testing.T) {
	errStep := errors.New("the step fails")
	for _, test := range []struct {
		name string
		fail string // the step that fails
		at   int    // which call of the step fails, from 1
		want []string
	}{
		{name: "succeeds", want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "remove"}},
		{name: "has series set aside", fail: "may", at: 1, want: []string{"may"}},
		{name: "cannot upload", fail: "flush", at: 1, want: []string{"may", "announce", "wait", "flush"}},
		{name: "cannot upload samples accepted in between", fail: "flush", at: 2, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "resume"}},
		{name: "series set aside in between", fail: "may", at: 2, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "resume"}},
		{name: "windows pending", fail: "pending", at: 1, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "resume"}},
		{name: "cannot be removed from the ring", fail: "remove", at: 1, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "remove", "resume"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var steps []string
			calls := map[string]int{}
			step := func(name string) func(context.Context) error {
				return func(context.Context) error {
					steps = append(steps, name)
					if calls[name]++; name == test.fail && calls[name] == test.at {
						return errStep
					}
					return nil
				}
			}
			l := &Leaver{
				mayLeave: step("may"), announce: step("announce"), wait: step("wait"), flush: step("flush"), remove: step("remove"),
				stopPushes: func() { steps = append(steps, "stop") },
				resume:     func() { steps = append(steps, "resume") },
				pending: func() int {
					if step("pending")(context.Background()) != nil {
						return 1
					}
					return 0
				},
			}
			err := l.Leave(context.Background())
			if failed := test.fail != ""; (err != nil) != failed || !slices.Equal(steps, test.want) {
				t.Errorf("error %v, steps %q, want %q", err, steps, test.want)
			}
			steps = nil
			if err := l.Leave(context.Background()); err != nil {
				t.Errorf("second call of Leave: %v", err)
			}
			if test.fail == "" && len(steps) != 0 {
				t.Errorf("steps after leaving: %q, want none", steps)
			}
		})
	}
}

// TestLeavingTwice checks that a second call of Leave fails while the first one is in progress,
// and does not resume pushes.
func TestLeavingTwice(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	nothing := func(context.Context) error { return nil }
	l := &Leaver{mayLeave: nothing, announce: nothing, wait: nothing, flush: nothing, stopPushes: func() {},
		resume: func() { t.Error("pushes were accepted again") }, pending: func() int { return 0 },
		remove: func(context.Context) error { close(inside); <-release; return nil }}
	done := make(chan error)
	go func() { done <- l.Leave(context.Background()) }()
	kit.Receive(t, "the first call is in progress", inside)
	if err := l.Leave(context.Background()); !errors.Is(err, ErrLeaving) {
		t.Errorf("second call of Leave: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPushWhileLeaving checks that samples accepted while an ingester leaves are uploaded,
// and that it rejects pushes after it left.
func TestPushWhileLeaving(t *testing.T) {
	ing, err := ingester.Open(t.Context(), ingester.Options{ID: "i", Dir: filepath.Join(t.TempDir(), "ingester"), Replication: 3,
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }})
	if err != nil {
		t.Fatal(err)
	}
	defer ing.Close()
	push := func() error {
		ls := labels.FromStrings("__name__", "x")
		_, err := ing.Push(t.Context(), &series.Batch{Tenant: "a", Entries: []series.Entry{
			{Labels: ls, Hash: ls.Hash(), Samples: []series.Sample{{T: time.Now().UnixMilli(), V: 1}}}}})
		return err
	}
	var errRing error
	flushes := 0
	l := &Leaver{
		mayLeave: func(context.Context) error { return nil }, announce: func(context.Context) error { return nil },
		wait: func(context.Context) error { return push() },
		flush: func(context.Context) error {
			if flushes++; flushes == 1 {
				defer func() { err = push() }() // a distributor with an old ring
			}
			return ing.Flush()
		},
		stopPushes: ing.StopPushes, resume: ing.ResumePushes,
		pending: func() int {
			if st := ing.Stats(); len(st.Tenants) == 1 && st.Tenants[0].MaxTime != 0 && push() == nil {
				return 1
			}
			return 0
		},
		remove: func(context.Context) error { return errRing },
	}
	errRing = errors.New("Redis is unreachable")
	if got := l.Leave(t.Context()); !errors.Is(got, errRing) || err != nil {
		t.Fatalf("Leave = %v, push while leaving: %v", got, err)
	}
	if err := push(); err != nil {
		t.Errorf("push after a failed Leave: %v", err)
	}
	errRing, flushes = nil, 0
	if got := l.Leave(t.Context()); got != nil || err != nil {
		t.Fatalf("Leave = %v, push while leaving: %v", got, err)
	}
	if err := push(); !errors.Is(err, ingester.ErrStopped) {
		t.Errorf("push to an ingester that left: %v", err)
	}
}

// leavingIngester is the ingester of this process, which leaves, and records the steps.
type leavingIngester struct {
	leaver
	s *scene
}

func (l leavingIngester) note(step string)             { l.s.steps = append(l.s.steps, step) }
func (l leavingIngester) Aside() []store.AsideOf       { return nil }
func (l leavingIngester) Flush() error                 { l.note("sealed"); return nil }
func (l leavingIngester) Upload(context.Context) error { l.note("uploaded"); return nil }
func (l leavingIngester) StopPushes()                  { l.note("pushes stopped") }
func (l leavingIngester) ResumePushes()                { l.note("pushes resumed") }
func (l leavingIngester) PendingWindows() int          { return 0 }

// TestLeaverHandsOver checks that an ingester that leaves hands over its active series
// before the others receive pushes of them, and before it rejects pushes itself.
func TestLeaverHandsOver(t *testing.T) {
	s := newScene(t)
	s.members.all = append(s.members.all, ring.Instance{ID: "d", Addr: "d", Zone: "zd", State: ring.Active, Tokens: []uint32{3 << 30}, Roles: []string{"ingester"}})
	s.peers["d"] = &fakePeer{id: "d", kept: map[uint64]bool{}}
	hashes := []uint64{1, 1 << 40, 1 << 50, 1 << 60, 1 << 62, 1 << 63}
	ing := leavingIngester{leaver{&fakePeer{active: []ingester.ActiveSeries{{Tenant: "acme", Hashes: hashes, Seconds: make([]uint32, len(hashes))}}}}, s}
	known := 0
	s.o.Wait = func(context.Context, time.Duration) error { // for others to see that it leaves
		for _, p := range s.peers {
			known += len(p.kept)
		}
		return nil
	}
	if err := s.Leaver(ing).Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if known == 0 || known > len(hashes) {
		t.Errorf("%d of %d series were handed over", known, len(hashes))
	}
	s.want(t, "leaving", "state "+string(ring.Leaving), "sealed", "uploaded", "pushes stopped", "sealed", "uploaded", "left")
}
