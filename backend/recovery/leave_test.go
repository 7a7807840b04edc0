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

// TestLeaving: after the last look at what is not uploaded nothing is accepted any
// more, and if leaving fails pushes are accepted again.
func TestLeaving(t *testing.T) {
	errStep := errors.New("the step fails")
	for _, test := range []struct {
		name string
		fail string // the step that fails, once
		at   int    // its how manieth call
		want []string
	}{
		{name: "succeeds", want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "remove"}},
		{name: "has series set aside", fail: "may", at: 1, want: []string{"may"}},
		{name: "cannot upload", fail: "flush", at: 1, want: []string{"may", "announce", "wait", "flush"}},
		{name: "cannot upload what came meanwhile", fail: "flush", at: 2, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "resume"}},
		{name: "series were set aside meanwhile", fail: "may", at: 2, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "resume"}},
		{name: "something is not uploaded", fail: "pending", at: 1, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "resume"}},
		{name: "the ring cannot be told", fail: "remove", at: 1, want: []string{"may", "announce", "wait", "flush", "stop", "flush", "may", "pending", "remove", "resume"}},
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
				t.Errorf("the second command: %v", err)
			}
			if test.fail == "" && len(steps) != 0 {
				t.Errorf("an ingester that has left does %q", steps)
			}
		})
	}
}

// TestLeavingTwice: a second command does not let pushes in while the first one
// checks that all is uploaded.
func TestLeavingTwice(t *testing.T) {
	inside, goOn := make(chan struct{}), make(chan struct{})
	nothing := func(context.Context) error { return nil }
	l := &Leaver{mayLeave: nothing, announce: nothing, wait: nothing, flush: nothing, stopPushes: func() {},
		resume: func() { t.Error("pushes were accepted again") }, pending: func() int { return 0 },
		remove: func(context.Context) error { close(inside); <-goOn; return nil }}
	done := make(chan error)
	go func() { done <- l.Leave(context.Background()) }()
	kit.Receive(t, "the first command is under way", inside)
	if err := l.Leave(context.Background()); !errors.Is(err, ErrLeaving) {
		t.Errorf("the second command: %v", err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPushToOneThatLeft: what an ingester takes while it leaves is uploaded, and
// once it has left it takes nothing, whatever ring a distributor has.
func TestPushToOneThatLeft(t *testing.T) {
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
	errRing = errors.New("Redis is away")
	if got := l.Leave(t.Context()); !errors.Is(got, errRing) || err != nil {
		t.Fatalf("leaving: %v, push while leaving: %v", got, err)
	}
	if err := push(); err != nil {
		t.Errorf("push after leaving failed: %v", err)
	}
	errRing, flushes = nil, 0
	if got := l.Leave(t.Context()); got != nil || err != nil {
		t.Fatalf("leaving: %v, push while leaving: %v", got, err)
	}
	if err := push(); !errors.Is(err, ingester.ErrStopped) {
		t.Errorf("push to an ingester that left: %v", err)
	}
}

// leavingIngester is a fakePeer as this process's ingester when it leaves.
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
func (l leavingIngester) Owes() int                    { return 0 }

// TestLeaverHandsOver: the others know of the active series before they take them, and
// before the one that leaves takes no pushes any more.
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
