package recovery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

var errDown = errors.New("down")

// TestMarkPredecessor checks that an ingester with an empty disk marks the pending windows
// of an earlier one of its name as lost, and waits until every querier has read that.
func TestMarkPredecessor(t *testing.T) {
	for _, tt := range []struct {
		name            string
		fresh, replaced bool
		pending         int
		err             error
		want            []string
	}{
		{name: "not fresh"},
		{name: "new in the cluster", fresh: true, want: []string{`lost a~1 in "za": 0 windows, 0 of them the last`, "loss recorded"}},
		{name: "pending windows, but no member of that name", fresh: true, pending: 2,
			want: []string{`lost a~1 in "za": 2 windows, 0 of them the last`, "waited 6s", "loss recorded"}},
		{name: "a member of that name", fresh: true, replaced: true,
			want: []string{`lost a~1 in "old zone": 2 windows, 2 of them the last`, "waited 6s", "loss recorded"}},
		{name: "the store fails", fresh: true, replaced: true, err: errDown},
	} {
		s := newScene(t)
		s.members.fresh, s.members.replaced, s.members.lostZone = tt.fresh, tt.replaced, "old zone"
		s.store.pending["a"], s.store.err = tt.pending, tt.err
		fresh, err := s.MarkPredecessor(t.Context())
		if !errors.Is(err, tt.err) || fresh != tt.fresh {
			t.Errorf("%s: fresh %v, error %v; want %v, %v", tt.name, fresh, err, tt.fresh, tt.err)
		}
		s.want(t, tt.name, tt.want...)
	}
}

func TestMarkDamaged(t *testing.T) {
	s := newScene(t)
	if err := s.MarkDamaged(t.Context(), []int64{0, 7_200_000}); err != nil {
		t.Error(err)
	}
	s.want(t, "two windows", "damaged a~1: 2 windows", "waited 6s")
	s.store.err = errDown
	if err := s.MarkDamaged(t.Context(), []int64{0}); !errors.Is(err, errDown) {
		t.Errorf("MarkDamaged with a failing store = %v, want errDown", err)
	}
}

// TestLostDomains checks that a loss counts only for its tenants and its time range, and
// that losses read from the store are cached.
func TestLostDomains(t *testing.T) {
	s := newScene(t)
	s.store.losses = []store.Lost{
		{Ingester: "b~lost-1", Zone: "zb", Window: store.Window{Day: 1, Number: 0}},
		{Ingester: "b~lost-1", Zone: "zb", Window: store.Window{Day: 1, Number: 1}},
		{Ingester: "c~lost-1", Zone: "zc", Window: store.Window{Day: 1, Number: 0}, Tenant: "acme"},
	}
	const day, hour = 86_400_000, 3_600_000
	for _, tt := range []struct {
		name       string
		tenant     string
		mint, maxt int64
		want       []string
	}{
		{"both windows", "other", day, 2 * day, []string{"zone zb"}},
		{"including a loss of the tenant", "acme", day, day, []string{"zone zb", "zone zc"}},
		{"the second window", "acme", day + 2*hour, day + 3*hour, []string{"zone zb"}},
		{"before", "acme", 0, day - 1, nil},
		{"after", "acme", day + 4*hour, 2 * day, nil},
	} {
		got, err := s.LostDomains(t.Context(), "acme", tt.mint, tt.maxt)
		if tt.tenant != "acme" {
			got, err = s.LostDomains(t.Context(), "other", tt.mint, tt.maxt)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	if s.store.reads != 1 {
		t.Errorf("%d reads of the store, want 1: losses are cached", s.store.reads)
	}
	s.readAt, s.store.err = time.Now().Add(-2*lossesFor), errDown
	if _, err := s.LostDomains(t.Context(), "acme", 0, day); !errors.Is(err, errDown) {
		t.Errorf("LostDomains with an expired cache and a failing store = %v, want errDown", err)
	}
}

// TestLostTwice checks that an ingester without a zone that was lost twice counts as one
// failure domain, which is also the domain of its successor.
func TestLostTwice(t *testing.T) {
	s := newScene(t)
	s.store.losses = []store.Lost{{Ingester: "b~lost-1", Window: store.Window{Day: 1}}, {Ingester: "b~lost-2", Window: store.Window{Day: 1}}}
	if got, err := s.LostDomains(t.Context(), "acme", 86_400_000, 86_400_000); err != nil || !slices.Equal(got, []string{"b"}) {
		t.Errorf("LostDomains() = %v, %v; want b", got, err)
	}
}

// TestSlowLosses checks that one of several queries reads the losses from a slow store, that
// the others wait for it at most until their own contexts are done, and that a read that
// takes too long fails.
func TestSlowLosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.store.proceed = make(chan struct{})
		query := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() {
				_, err := s.LostDomains(ctx, "acme", 0, 1)
				done <- err
			}()
			synctest.Wait()
			return done
		}
		first, second := query(t.Context()), query(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		third := query(ctx)
		cancel()
		synctest.Wait()
		select {
		case err := <-third:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("LostDomains with a canceled context = %v", err)
			}
		default:
			t.Error("a query waits for the read of another one although its context is done")
		}
		close(s.store.proceed)
		if err := errors.Join(<-first, <-second); err != nil || s.store.reads != 1 {
			t.Errorf("%v, %d reads; want one read", err, s.store.reads)
		}
		s.readAt, s.store.proceed = time.Time{}, make(chan struct{})
		began := time.Now()
		if err := <-query(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > lossesFor {
			t.Errorf("a slow read ended after %s with %v", time.Since(began), err)
		}
	})
}

// TestRestore checks that Restore retries until all replicas have uploaded, and ends when
// only an operator can accept the remaining loss.
func TestRestore(t *testing.T) {
	loss := []store.Lost{{Ingester: "a~lost-1"}}
	for _, tt := range []struct {
		name string
		set  func(*scene)
		want []string
		says string
	}{
		{"nothing is lost", func(*scene) {}, nil, ""},
		{"all upload", func(s *scene) { s.store.losses = loss }, []string{"settle a"}, "uploaded by its replicas"},
		{"one fails twice", func(s *scene) { s.store.losses, s.peers["b"].flushes = loss, []error{errDown, errDown} },
			[]string{"waited 10s", "waited 10s", "settle a"}, "instance b: down"},
		{"two zones were lost", func(s *scene) { s.store.losses, s.store.stay = loss, 3 }, []string{"settle a"}, "pallium loss accept"},
		{"no ingester in the ring", func(s *scene) {
			s.store.losses, s.members.all = loss, nil
			s.o.Wait = func(context.Context, time.Duration) error { return context.Canceled }
		}, nil, "no ingesters in the ring"},
	} {
		s := newScene(t)
		tt.set(s)
		s.Restore(t.Context(), "a")
		s.want(t, tt.name, tt.want...)
		if !strings.Contains(s.log.String(), tt.says) {
			t.Errorf("%s: unexpected log: %s", tt.name, s.log.String())
		}
	}
}

// TestForget checks that the pending windows of a forgotten ingester are marked as lost
// before it is removed from the ring.
func TestForget(t *testing.T) {
	aside := []store.AsideOf{{Ingester: "b", Tenant: "acme"}}
	for _, tt := range []struct {
		name    string
		set     func(*scene)
		id      string
		force   bool
		windows int
		err     error
		want    []string
	}{
		{name: "an ingester", id: "b", set: func(s *scene) { s.store.pending["b"] = 1 }, windows: 3,
			want: []string{`lost b~1 in "zb": 3 windows, 2 of them the last`, "waited 6s", "forgotten b", "asides of b deleted"}},
		{name: "another role", id: "d", set: func(s *scene) {
			s.members.all = append(s.members.all, ring.Instance{ID: "d", State: ring.Active, SinceHeartbeat: time.Minute, Roles: []string{"querier"}})
		}, want: []string{"forgotten d", "asides of d deleted"}},
		{name: "alive", id: "b", set: func(s *scene) { s.members.all[1].SinceHeartbeat = time.Second }, err: ErrAlive},
		{name: "alive, with force", id: "b", force: true, set: func(s *scene) { s.members.all[1].SinceHeartbeat = time.Second }, windows: 2,
			want: []string{`lost b~1 in "zb": 2 windows, 2 of them the last`, "waited 6s", "forgotten b", "asides of b deleted"}},
		{name: "not a member", id: "e", err: ErrNotMember},
		{name: "series set aside", id: "b", set: func(s *scene) { s.store.asides = aside }, err: ErrHasAside},
		{name: "ring not loaded", id: "b", set: func(s *scene) { s.members.err = ring.ErrUnknown }, err: ring.ErrUnknown},
		{name: "the store fails", id: "b", set: func(s *scene) { s.store.err = errDown }, err: errDown},
		{name: "untrusted entry of an ingester", id: "x", set: func(s *scene) { s.members.untrusted, s.store.pending["x"] = "x", 1 }, windows: 4,
			want: []string{`lost x~ in "": 1 windows, 0 of them the last`, `lost x~ in "": 3 windows, 2 of them the last`, "waited 6s", "forgotten x", "asides of x deleted"}},
		{name: "untrusted entry, not of an ingester", id: "x", set: func(s *scene) { s.members.untrusted = "x" },
			want: []string{`lost x~ in "": 0 windows, 0 of them the last`, "forgotten x", "asides of x deleted"}},
	} {
		s := newScene(t)
		if tt.set != nil {
			tt.set(s)
		}
		n, err := s.Forget(t.Context(), tt.id, tt.force)
		if n != tt.windows || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d windows, error %v; want %d, %v", tt.name, n, err, tt.windows, tt.err)
		}
		if errors.Is(err, ErrHasAside) && !strings.Contains(err.Error(), "day "+series.DateOf(aside[0].Window.Day)+", window ") {
			t.Errorf("%s: the error has no date: %v", tt.name, err)
		}
		s.want(t, tt.name, tt.want...)
	}
}

// TestHandOver checks that active series of a leaving ingester are sent to the ingesters
// that are new in their replica sets, and that a failure is logged.
func TestHandOver(t *testing.T) {
	s := newScene(t)
	d := ring.Instance{ID: "d", Addr: "d", Zone: "zd", State: ring.Active, Tokens: []uint32{3 << 30}, Roles: []string{"ingester"}}
	s.members.all = append(s.members.all, d)
	s.peers["d"] = &fakePeer{id: "d", kept: map[uint64]bool{}}
	var hashes []uint64
	for i := range uint64(1000) {
		hashes = append(hashes, i*0x9e3779b97f4a7c15)
	}
	ing := &fakePeer{active: []ingester.ActiveSeries{{Tenant: "acme", Hashes: hashes, Seconds: make([]uint32, len(hashes))}}}
	takes, err := s.TakenBy(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	s.handOver(t.Context(), leaver{ing})
	for _, h := range hashes {
		// With four zones and three replicas, a series of a is new to exactly one ingester.
		n := 0
		for _, id := range []string{"b", "c", "d"} {
			if s.peers[id].kept[h] {
				n++
			}
		}
		if want := map[bool]int{true: 1}[takes("acme", h)]; n != want {
			t.Fatalf("series %d was handed to %d ingesters, want %d", h, n, want)
		}
	}
	s.peers["d"].err = errDown
	s.handOver(t.Context(), leaver{ing})
	if !strings.Contains(s.log.String(), "ingester d: down") {
		t.Errorf("unexpected log: %s", s.log.String())
	}
}

// leaver adapts a fakePeer to Active.
type leaver struct{ *fakePeer }

func (l leaver) EachActive(ctx context.Context, fn func(*ingester.ActiveSeries) error) error {
	return l.ActiveSeries(ctx, "", fn)
}

// TestRequestActive checks that a new ingester calls all healthy ingesters except itself.
func TestRequestActive(t *testing.T) {
	s := newScene(t)
	s.members.all[2].Unhealthy = true
	for i, id := range []string{"a", "b", "c"} {
		s.peers[id].active = []ingester.ActiveSeries{{Tenant: "acme", Hashes: []uint64{uint64(i)}}}
	}
	ing := &fakePeer{kept: map[uint64]bool{}}
	s.RequestActive(t.Context(), leaver{ing})
	if len(ing.kept) != 1 || !ing.kept[1] {
		t.Errorf("reserved %v, want series 1 only", ing.kept)
	}
	s.peers["b"].err = errDown
	s.RequestActive(t.Context(), leaver{ing})
	if !strings.Contains(s.log.String(), "instance b: down") {
		t.Errorf("unexpected log: %s", s.log.String())
	}
	s.members.err = ring.ErrUnknown
	s.RequestActive(t.Context(), leaver{ing})
	if !strings.Contains(s.log.String(), "ring not loaded yet") {
		t.Errorf("unexpected log: %s", s.log.String())
	}
}
