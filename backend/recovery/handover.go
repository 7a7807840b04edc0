package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// handOverTimeout bounds a handover of active series. Series that are not handed over in
// time count as new on the receiving ingester, unless another replica has them.
const handOverTimeout = time.Minute

// Active is the part of this process's ingester that handles active series.
type Active interface {
	EachActive(context.Context, func(*ingester.ActiveSeries) error) error
	ReserveSeries(context.Context, *ingester.ActiveSeries) error
}

// withState returns a copy of the ring with an instance in the given state.
func withState(r *ring.Ring, id string, state ring.State) (*ring.Ring, error) {
	all := slices.Clone(r.Instances())
	at := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("%w: ingester %s is not in the ring", wire.ErrUnavailable, id)
	}
	all[at].State = state
	return ring.New(all), nil
}

// placement finds the replica sets of series in a ring. It caches the shard of the last
// tenant and is not safe for concurrent use.
type placement struct {
	o      *Options
	ring   *ring.Ring
	tenant tenant.ID
	shard  *ring.Ring // of the tenant
	found  []int32
}

// of returns the positions of the replica set of a series, which may be incomplete if the
// ring has too few ingesters. The slice is valid until the next call.
func (p *placement) of(id tenant.ID, hash uint64) []int32 {
	if p.shard == nil || p.tenant != id {
		lim := p.o.Limits(id)
		p.tenant, p.shard = id, p.ring.Shard(id, p.o.ShardSize(&lim))
	}
	p.found, _ = p.shard.Positions(series.Token(id, hash), p.o.Replication, p.found) // ErrTooFew: use the ones found
	return p.found
}

// TakenBy returns a function that reports whether the replica set of a series will
// include an instance once it is ACTIVE.
func (r *Recovery) TakenBy(ctx context.Context, instance string) (ingester.Takes, error) {
	now, err := r.o.Members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	if now, err = withState(now, instance, ring.Active); err != nil {
		return nil, err
	}
	self := int32(slices.IndexFunc(now.Instances(), func(in ring.Instance) bool { return in.ID == instance }))
	p := &placement{o: &r.o, ring: now}
	return func(id tenant.ID, hash uint64) bool { return slices.Contains(p.of(id, hash), self) }, nil
}

// handOver sends the active series of this ingester, which is leaving, to the ingesters
// that replace it in their replica sets. It is best effort: failures are logged.
func (r *Recovery) handOver(ctx context.Context, ing Active) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	now, err := r.o.Members.Ring(ctx)
	self := r.o.Members.Self().ID
	h := &handover{r: r, sent: map[string]int{}, failed: map[string]error{}}
	if err == nil {
		var before *ring.Ring
		before, err = withState(now, self, ring.Active)
		h.was = placement{o: &r.o, ring: before}
	}
	if err == nil {
		h.after, err = withState(now, self, ring.Leaving)
		h.is = placement{o: &r.o, ring: h.after}
	}
	if err != nil {
		r.o.Logger.Warn("could not hand over active series: failed to read the ring", "err", err)
		return
	}
	err = ing.EachActive(ctx, func(s *ingester.ActiveSeries) error { h.send(ctx, s); return nil })
	for id, n := range h.sent {
		r.o.Logger.Info("active series handed over", "ingester", id, "series", n)
	}
	for id, failure := range h.failed {
		if failure != nil {
			err = errors.Join(err, fmt.Errorf("ingester %s: %w", id, failure))
		}
	}
	if err != nil {
		r.o.Logger.Warn("handover of active series incomplete: series that are on no other replica count as new, and may hit max_active_series",
			"err", err)
	}
}

// handover is a handover in progress: from the replica sets with this ingester ACTIVE to
// those with it LEAVING.
type handover struct {
	r       *Recovery
	was, is placement
	after   *ring.Ring
	sent    map[string]int   // series by instance
	failed  map[string]error // by instance; after an error nothing more is sent to it
}

// send sends a slice of active series to the ingesters that receive them.
func (h *handover) send(ctx context.Context, s *ingester.ActiveSeries) {
	instances := h.after.Instances()
	for to, part := range h.receivers(s) {
		in := &instances[to]
		if h.failed[in.ID] != nil {
			continue
		}
		p, err := h.r.o.Peer(in)
		if err == nil {
			err = p.ReserveSeries(ctx, part)
		}
		if h.failed[in.ID] = err; err == nil {
			h.sent[in.ID] += len(part.Hashes)
		}
	}
}

// receivers splits series by the position of the ingesters that are new in their replica
// sets.
func (h *handover) receivers(s *ingester.ActiveSeries) map[int32]*ingester.ActiveSeries {
	out := map[int32]*ingester.ActiveSeries{}
	for i, hash := range s.Hashes {
		old := h.was.of(s.Tenant, hash)
		for _, to := range h.is.of(s.Tenant, hash) {
			if slices.Contains(old, to) {
				continue
			}
			part := out[to]
			if part == nil {
				part = &ingester.ActiveSeries{Tenant: s.Tenant, Bytes: s.Bytes}
				out[to] = part
			}
			part.Hashes, part.Seconds = append(part.Hashes, hash), append(part.Seconds, s.Seconds[i])
		}
	}
	return out
}

// RequestActive requests from the other ingesters the active series whose replica sets
// will include this one, which has an empty disk, and reserves them. It is best effort:
// failures are logged.
func (r *Recovery) RequestActive(ctx context.Context, ing Active) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	self := r.o.Members.Self().ID
	list, err := r.ingesters(ctx, func(in *ring.Instance) bool { return in.ID != self && in.State != ring.Joining && !in.Unhealthy })
	if errors.Is(err, ring.ErrUnknown) {
		r.o.Logger.Info("ring not loaded yet, as in a new cluster: starting without active series of other ingesters")
		return
	}
	if err != nil {
		r.o.Logger.Warn("could not request active series from other ingesters: failed to read the ring", "err", err)
		return
	}
	for _, a := range peers.Each(ctx, list, func(ctx context.Context, p Peer) (n int, err error) {
		err = p.ActiveSeries(ctx, self, func(s *ingester.ActiveSeries) error {
			n += len(s.Hashes)
			return ing.ReserveSeries(ctx, s)
		})
		return n, err
	}) {
		if a.Err != nil {
			r.o.Logger.Warn("handover of active series from an ingester incomplete: "+
				"series that are on no other replica count as new, and may hit max_active_series",
				"ingester", a.ID, "series", a.Value, "err", a.Err)
		} else if a.Value > 0 {
			r.o.Logger.Info("active series received", "ingester", a.ID, "series", a.Value)
		}
	}
}
