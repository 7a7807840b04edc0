// Package recovery is what happens to the data and the place of an ingester that
// joins, leaves, or is lost with its disk. docs/cluster.md describes it for
// operators.
//
// An ingester goes through these states; each step is harmless to repeat, so that a
// process that dies between two of them starts the step again:
//
//	         Open (empty disk, ring remembers the name)
//	LOST ──────────────────────────────────────────────► JOINING
//	 ▲      MarkForerunner: pending windows → lost          │ AskForActive
//	 │                                                      ▼
//	 │ Forget (operator): pending windows → lost         ACTIVE ── MarkDamaged:
//	 │                                                      │       windows whose
//	 ├──────────────────────────────────────────────────────┤       log is damaged
//	 │                                                      │ Leave → lost
//	 └──────────────────────────────────────────────── LEAVING ──► gone, nothing lost
//
// What is marked as lost is a row of the store's work list under the name of the
// lost incarnation (store.Lose), so that it outlives Redis. While a window is lost,
// LostDomains has queries of it count the ingester's failure domain as unavailable.
// Restore ends that: all other ingesters seal and upload, and the mark is taken back
// unless an ingester of another domain was lost with the same window; then an
// operator decides (accept-loss).
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
	// Fresh reports whether this ingester has an empty disk, and whether one of its
	// name was a member before.
	Fresh() (fresh, replaced bool)
	LostZone() string // of that one
	Settled() error   // its data is accounted for
	SetState(context.Context, ring.State) error
	Leave(context.Context) error
	Forget(ctx context.Context, id string) (ring.Instance, error)
	// Distrusts reports whether an instance has an entry that no key of the cluster
	// signed.
	Distrusts(id string) bool
}

// Store is the work list of the long-term store.
type Store interface {
	Lose(ctx context.Context, ingester, incarnation, zone string, also []store.Window) (int, error)
	Damaged(ctx context.Context, ingester, incarnation, zone string, windows []store.Window) error
	Losses(context.Context) ([]store.Lost, error)
	LossesOf(ctx context.Context, ingester string) (int, error)
	SettleLoss(ctx context.Context, ingester string) (int, error)
	AsidesOf(ctx context.Context, instance string) ([]store.AsideOf, error)
	ForgetAsides(ctx context.Context, instance string) error
}

// Peer is another ingester.
type Peer interface {
	Flush(context.Context) error
	KeepPlaces(context.Context, *ingester.ActiveSeries) error
	// ActiveSeries tells of the active series that an instance will take.
	ActiveSeries(ctx context.Context, instance string, fn func(*ingester.ActiveSeries) error) error
}

// Options of Recovery. All but Now and Wait are needed.
type Options struct {
	Members     Members
	Store       Store
	Replication int
	// ShardSize is how many ingesters take a tenant's series; 0: all.
	ShardSize func(*limits.Limits) int
	Limits    func(tenant.ID) limits.Limits
	// Peer connects to an instance. It does not wait for a connection.
	Peer   func(*ring.Instance) (Peer, error)
	Logger *slog.Logger
	Now    func() time.Time // time.Now
	// Wait returns after a time, or with the error of its context. nil: it waits.
	Wait func(context.Context, time.Duration) error
}

// Recovery has the losses that queries must know of, and what to do about them. It is
// safe for concurrent use.
type Recovery struct {
	o Options

	mu     sync.Mutex
	losses []store.Lost
	asked  time.Time // when the store was asked for losses
}

// New returns a Recovery.
func New(o Options) *Recovery {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	return &Recovery{o: o}
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

// ingesters lists the ingesters of the ring that may be called.
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

// lastWindows are those of which an ingester may have samples before it has recorded
// that it will upload them.
func (r *Recovery) lastWindows() []store.Window {
	now := r.o.Now().UnixMilli()
	return []store.Window{store.WindowOf(now), store.WindowOf(now - series.WindowMillis)}
}
