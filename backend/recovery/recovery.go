// Package recovery moves or restores the data and the active series of an ingester that
// joins, leaves, or is lost with its disk. docs/cluster.md describes it for operators.
//
// An ingester goes through these states. Every step is idempotent: a process that dies
// between two steps repeats the step.
//
//	         Open (empty disk, the ring has the name)
//	LOST ──────────────────────────────────────────────► JOINING
//	 ▲      MarkPredecessor: pending windows → lost         │ RequestActive
//	 │                                                      ▼
//	 │ Forget (operator): pending windows → lost         ACTIVE ── MarkDamaged: windows in
//	 │                                                      │      a damaged log → lost
//	 ├──────────────────────────────────────────────────────┤
//	 │                                                      │ Leave
//	 └──────────────────────────────────────────────── LEAVING ──► gone, nothing lost
//
// Lost windows are stored in the work rows under the lost incarnation (store.MarkLost), so
// that they survive a loss of Redis. While a window is lost, queries of it count the
// ingester's failure domain as unavailable (LostDomains). Restore ends that: all
// ingesters seal and upload, and the mark is removed unless an ingester of another failure
// domain was lost with the same window. In that case an operator has to accept the loss
// (pallium loss accept).
package recovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// Members is this process's membership in the ring.
type Members interface {
	Self() ring.Instance
	Ring(context.Context) (*ring.Ring, error)
	// Fresh reports whether this ingester has an empty disk, and whether an ingester of its
	// name was a member before.
	Fresh() (fresh, replaced bool)
	// LostZone returns the zone of the replaced ingester.
	LostZone() string
	// LossRecorded must be called once the loss of the replaced ingester is recorded.
	LossRecorded() error
	SetState(context.Context, ring.State) error
	Leave(context.Context) error
	Forget(ctx context.Context, id string) (ring.Instance, error)
	// Untrusted reports whether an instance has only an entry in Redis that is not
	// trusted, so that it is not a member.
	Untrusted(id string) bool
}

// Store is the part of the long-term store that records pending and lost windows.
type Store interface {
	MarkLost(ctx context.Context, ingester, incarnation, zone string, also []store.Window) (int, error)
	MarkDamaged(ctx context.Context, ingester, incarnation, zone string, windows []store.Window) error
	Losses(context.Context) ([]store.Lost, error)
	LossesOf(ctx context.Context, ingester string) (int, error)
	ClearLoss(ctx context.Context, ingester string) (int, error)
	AsidesOf(ctx context.Context, instance string) ([]store.AsideOf, error)
	ForgetAsides(ctx context.Context, instance string) error
}

// Peer is another ingester.
type Peer interface {
	Flush(context.Context) error
	ReserveSeries(context.Context, *ingester.ActiveSeries) error
	// ActiveSeries calls fn with the peer's active series whose replica set will include
	// the instance.
	ActiveSeries(ctx context.Context, instance string, fn func(*ingester.ActiveSeries) error) error
}

// Options configure a Recovery. Only Now and Wait are optional.
type Options struct {
	Members     Members
	Store       Store
	Replication int
	// ShardSize returns the number of ingesters in a tenant's shard; 0 means all.
	ShardSize func(*limits.Limits) int
	Limits    func(tenant.ID) limits.Limits
	// Peer returns a client for an instance. It does not wait for a connection.
	Peer   func(*ring.Instance) (Peer, error)
	Logger *slog.Logger
	Now    func() time.Time // default time.Now
	// Wait returns after a duration, or with the error of its context; default a timer.
	Wait func(context.Context, time.Duration) error
}

// Recovery tracks lost windows for queries and restores lost data. It is safe for
// concurrent use.
type Recovery struct {
	o Options

	reading chan struct{} // has one element while a goroutine reads the losses

	mu     sync.Mutex
	losses []store.Lost
	readAt time.Time // when losses were read from the store
}

// New returns a Recovery.
func New(o Options) *Recovery {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	return &Recovery{o: o, reading: make(chan struct{}, 1)}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// ingesters returns the ingesters of the ring for which the function `which` returns
// true.
func (r *Recovery) ingesters(ctx context.Context, which func(*ring.Instance) bool) ([]peers.Peer[Peer], error) {
	now, err := r.o.Members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	var out []peers.Peer[Peer]
	for i := range now.Instances() {
		in := &now.Instances()[i]
		if !which(in) {
			continue
		}
		p, err := r.o.Peer(in)
		if err != nil {
			return nil, err
		}
		out = append(out, peers.Peer[Peer]{ID: in.ID, Domain: in.Domain(), Unhealthy: in.Unhealthy, Client: p})
	}
	return out, nil
}

// lastWindows returns the windows for which an ingester may have had samples without
// an intent in the store: the current and the previous one.
func (r *Recovery) lastWindows() []store.Window {
	now := r.o.Now().UnixMilli()
	return []store.Window{store.WindowOf(now), store.WindowOf(now - series.WindowMillis)}
}
