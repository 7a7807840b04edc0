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

// handOverTimeout bounds the hand-over of active series. What is not handed over
// by then is new to who takes it, unless another replica knows it.
const handOverTimeout = time.Minute

// Active is this process's ingester and its active series.
type Active interface {
	EachActive(context.Context, func(*ingester.ActiveSeries) error) error
	KeepPlaces(context.Context, *ingester.ActiveSeries) error
}

// withState is the ring as it is with an instance in a state.
func withState(r *ring.Ring, id string, state ring.State) (*ring.Ring, error) {
	all := slices.Clone(r.Instances())
	at := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("%w: ingester %s is not in the ring", wire.ErrUnavailable, id)
	}
	all[at].State = state
	return ring.New(all), nil
}

// placement tells which ingesters take series in a ring. It remembers one tenant's
// part of it and is not safe for concurrent use.
type placement struct {
	o      *Options
	ring   *ring.Ring
	tenant tenant.ID
	shard  *ring.Ring // the tenant's
	found  []int32
}

// of returns the positions of the ingesters that take a series; none while there
// are too few. The slice is good until the next call.
func (p *placement) of(id tenant.ID, hash uint64) []int32 {
	if p.shard == nil || p.tenant != id {
		lim := p.o.Limits(id)
		p.tenant, p.shard = id, p.ring.Shard(id, p.o.ShardSize(&lim))
	}
	// With too few, those that there are.
	p.found, _ = p.shard.Positions(series.Token(id, hash), p.o.Replication, p.found)
	return p.found
}

// TakenBy tells which series an instance takes once it is active.
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

// handOver sends the active series of this ingester, which is leaving, to those
// that take them from it. It does what it can: a failure is logged.
func (r *Recovery) handOver(ctx context.Context, ing Active) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	now, err := r.o.Members.Ring(ctx)
	self := r.o.Members.Self().ID
	h := &handingOver{r: r, sent: map[string]int{}, failed: map[string]error{}}
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
		r.o.Logger.Warn("active series were not handed over: the ring is not known", "err", err)
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
		r.o.Logger.Warn("not all active series were handed over; those that no other replica knows are new to the ingesters that take them",
			"err", err)
	}
}

// handingOver is a hand-over under way: from whom the ingester is active to whom it
// is leaving.
type handingOver struct {
	r       *Recovery
	was, is placement
	after   *ring.Ring
	sent    map[string]int   // series by instance
	failed  map[string]error // by instance; it gets no more
}

// send tells the ingesters that take series of a slice from now on.
func (h *handingOver) send(ctx context.Context, s *ingester.ActiveSeries) {
	instances := h.after.Instances()
	for to, part := range h.takers(s) {
		in := &instances[to]
		if h.failed[in.ID] != nil {
			continue
		}
		p, err := h.r.o.Peer(in)
		if err == nil {
			err = p.KeepPlaces(ctx, part)
		}
		if h.failed[in.ID] = err; err == nil {
			h.sent[in.ID] += len(part.Hashes)
		}
	}
}

// takers divides series by the position of those that take them and did not before.
func (h *handingOver) takers(s *ingester.ActiveSeries) map[int32]*ingester.ActiveSeries {
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

// AskForActive asks the other ingesters for the active series that this one will
// take with its empty disk, and keeps places for them. It does what it can: a failure
// is logged.
func (r *Recovery) AskForActive(ctx context.Context, ing Active) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	self := r.o.Members.Self().ID
	list, err := r.ingesters(ctx, func(in *ring.Instance) bool { return in.ID != self && in.State != ring.Joining && !in.Unhealthy })
	if errors.Is(err, ring.ErrUnknown) {
		r.o.Logger.Info("ring not known yet, as in a new cluster: no ingester is asked for the active series that this one will take")
		return
	}
	if err != nil {
		r.o.Logger.Warn("could not ask for the active series that this ingester will take: the ring is not known", "err", err)
		return
	}
	for _, a := range peers.Each(ctx, list, func(ctx context.Context, p Peer) (n int, err error) {
		err = p.ActiveSeries(ctx, self, func(s *ingester.ActiveSeries) error {
			n += len(s.Hashes)
			return ing.KeepPlaces(ctx, s)
		})
		return n, err
	}) {
		if a.Err != nil {
			r.o.Logger.Warn("an ingester did not hand over all active series that this one will take; "+
				"those that no other replica knows are new here", "ingester", a.ID, "series", a.Value, "err", a.Err)
		} else if a.Value > 0 {
			r.o.Logger.Info("active series received", "ingester", a.ID, "series", a.Value)
		}
	}
}
