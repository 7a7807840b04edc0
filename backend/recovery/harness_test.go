package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// fakeMembers implements Members with a ring that a test sets.
type fakeMembers struct {
	self            ring.Instance
	all             []ring.Instance
	err             error // of Ring
	fresh, replaced bool
	lostZone        string
	untrusted       string
	steps           *[]string
}

func (f *fakeMembers) note(format string, args ...any) {
	*f.steps = append(*f.steps, fmt.Sprintf(format, args...))
}

func (f *fakeMembers) Self() ring.Instance { return f.self }

func (f *fakeMembers) Ring(context.Context) (*ring.Ring, error) {
	if f.err != nil {
		return nil, f.err
	}
	return ring.New(f.all), nil
}

func (f *fakeMembers) Fresh() (fresh, replaced bool) { return f.fresh, f.replaced }
func (f *fakeMembers) LostZone() string              { return f.lostZone }
func (f *fakeMembers) LossRecorded() error           { f.note("loss recorded"); return nil }
func (f *fakeMembers) Leave(context.Context) error   { f.note("left"); return nil }
func (f *fakeMembers) Untrusted(id string) bool      { return id == f.untrusted }

func (f *fakeMembers) SetState(_ context.Context, s ring.State) error {
	f.note("state %s", s)
	return nil
}

func (f *fakeMembers) Forget(_ context.Context, id string) (ring.Instance, error) {
	f.note("forgotten %s", id)
	return ring.Instance{ID: id}, nil
}

// fakeStore implements Store with the pending windows of ingesters and of lost ingesters.
type fakeStore struct {
	pending map[string]int // windows by ingester
	losses  []store.Lost
	stay    int // losses that only an operator can accept
	asides  []store.AsideOf
	err     error
	reads   int           // calls of Losses
	proceed chan struct{} // if not nil, Losses waits until it is closed
	steps   *[]string
}

func (f *fakeStore) note(format string, args ...any) {
	*f.steps = append(*f.steps, fmt.Sprintf(format, args...))
}

func (f *fakeStore) MarkLost(_ context.Context, name, incarnation, zone string, also []store.Window) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n := f.pending[name] + len(also)
	f.note("lost %s~%s in %q: %d windows, %d of them the last", name, incarnation, zone, n, len(also))
	return n, nil
}

func (f *fakeStore) MarkDamaged(_ context.Context, name, incarnation, _ string, windows []store.Window) error {
	f.note("damaged %s~%s: %d windows", name, incarnation, len(windows))
	return f.err
}

func (f *fakeStore) Losses(ctx context.Context) ([]store.Lost, error) {
	f.reads++
	if f.proceed != nil {
		select {
		case <-f.proceed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return f.losses, f.err
}

func (f *fakeStore) LossesOf(context.Context, string) (int, error) { return len(f.losses), f.err }

func (f *fakeStore) ClearLoss(_ context.Context, name string) (int, error) {
	f.note("settle %s", name)
	return f.stay, f.err
}

func (f *fakeStore) AsidesOf(_ context.Context, instance string) ([]store.AsideOf, error) {
	var out []store.AsideOf
	for _, a := range f.asides {
		if a.Ingester == instance {
			out = append(out, a)
		}
	}
	return out, f.err
}

func (f *fakeStore) ForgetAsides(_ context.Context, instance string) error {
	f.note("asides of %s deleted", instance)
	return nil
}

// fakePeer is another ingester.
type fakePeer struct {
	id      string
	flushes []error // errors of the calls of Flush; nil after the last
	active  []ingester.ActiveSeries
	kept    map[uint64]bool
	err     error
	steps   *[]string
}

func (p *fakePeer) Flush(context.Context) error {
	if len(p.flushes) == 0 {
		return nil
	}
	err := p.flushes[0]
	p.flushes = p.flushes[1:]
	return err
}

func (p *fakePeer) ReserveSeries(_ context.Context, a *ingester.ActiveSeries) error {
	if p.err != nil {
		return p.err
	}
	for _, h := range a.Hashes {
		p.kept[h] = true
	}
	return nil
}

func (p *fakePeer) ActiveSeries(_ context.Context, _ string, fn func(*ingester.ActiveSeries) error) error {
	for i := range p.active {
		if err := fn(&p.active[i]); err != nil {
			return err
		}
	}
	return p.err
}

// scene is a Recovery with fakes, and the recorded steps.
type scene struct {
	*Recovery
	members *fakeMembers
	store   *fakeStore
	peers   map[string]*fakePeer
	steps   []string
	log     strings.Builder
}

// newScene returns a scene with three ingesters in three zones. This process is the first.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{peers: map[string]*fakePeer{}}
	s.members, s.store = &fakeMembers{steps: &s.steps}, &fakeStore{pending: map[string]int{}, steps: &s.steps}
	for i, id := range []string{"a", "b", "c"} {
		s.members.all = append(s.members.all, ring.Instance{ID: id, Addr: id, Zone: "z" + id, State: ring.Active, SinceHeartbeat: time.Minute,
			Incarnation: "1", Tokens: []uint32{uint32(i) << 30, uint32(i)<<30 + 1<<29}, Roles: []string{"ingester"}})
		s.peers[id] = &fakePeer{id: id, kept: map[uint64]bool{}, steps: &s.steps}
	}
	s.members.self = s.members.all[0]
	s.Recovery = New(Options{
		Members: s.members, Store: s.store, Replication: 3, ShardSize: func(*limits.Limits) int { return 0 },
		Limits: func(tenant.ID) limits.Limits { return limits.Default() },
		Peer: func(in *ring.Instance) (Peer, error) {
			if p := s.peers[in.ID]; p != nil {
				return p, nil
			}
			return nil, errors.New("no peer " + in.ID)
		},
		Logger: slog.New(slog.NewTextHandler(&s.log, nil)), Now: func() time.Time { return time.UnixMilli(1_700_000_000_000) },
		Wait: func(ctx context.Context, d time.Duration) error {
			s.steps = append(s.steps, "waited "+d.String())
			return ctx.Err()
		},
	})
	return s
}

func (s *scene) want(t *testing.T, name string, steps ...string) {
	t.Helper()
	if got, want := strings.Join(s.steps, "; "), strings.Join(steps, "; "); got != want {
		t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
	}
}
