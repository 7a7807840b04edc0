package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
)

// handOverTimeout bounds the hand-over of active series. What is not handed over
// by then is new to who takes it, unless another replica knows it.
const handOverTimeout = time.Minute

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
	app    *App
	ring   *ring.Ring
	tenant tenant.ID
	shard  *ring.Ring // the tenant's
	found  []int32
}

// of returns the positions of the ingesters that take a series; none while there
// are too few. The slice is good until the next call.
func (p *placement) of(id tenant.ID, hash uint64) []int32 {
	if p.shard == nil || p.tenant != id {
		lim := p.app.limitsOf(id)
		p.tenant, p.shard = id, p.ring.Shard(id, p.app.shardSize(&lim))
	}
	// With too few, those that there are.
	p.found, _ = p.shard.Positions(series.Token(id, hash), p.app.cfg.Cluster.Replication, p.found)
	return p.found
}

// takenBy tells which series an instance takes once it is active.
func (a *App) takenBy(ctx context.Context, instance string) (ingester.Takes, error) {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	if r, err = withState(r, instance, ring.Active); err != nil {
		return nil, err
	}
	self := int32(slices.IndexFunc(r.Instances(), func(in ring.Instance) bool { return in.ID == instance }))
	p := &placement{app: a, ring: r}
	return func(id tenant.ID, hash uint64) bool { return slices.Contains(p.of(id, hash), self) }, nil
}

// handOver sends the active series of this ingester, which is leaving, to those
// that take them from it. It does what it can: a failure is logged.
func (a *App) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	r, err := a.members.Ring(ctx)
	self := a.members.Self().ID
	var before, after *ring.Ring
	if err == nil {
		before, err = withState(r, self, ring.Active)
	}
	if err == nil {
		after, err = withState(r, self, ring.Leaving)
	}
	if err != nil {
		a.opts.Logger.Warn("active series were not handed over: the ring is not known", "err", err)
		return
	}
	was, is := &placement{app: a, ring: before}, &placement{app: a, ring: after}
	instances := after.Instances()
	sent, failed := map[string]int{}, map[string]error{}
	err = a.ingester.EachActive(ctx, func(s *ingester.ActiveSeries) error {
		takers := map[int32]*ingester.ActiveSeries{}
		for i, hash := range s.Hashes {
			old := was.of(s.Tenant, hash)
			for _, to := range is.of(s.Tenant, hash) {
				if slices.Contains(old, to) {
					continue
				}
				part := takers[to]
				if part == nil {
					part = &ingester.ActiveSeries{Tenant: s.Tenant, Bytes: s.Bytes}
					takers[to] = part
				}
				part.Hashes, part.Seconds = append(part.Hashes, hash), append(part.Seconds, s.Seconds[i])
			}
		}
		for to, part := range takers {
			in := &instances[to]
			if failed[in.ID] != nil {
				continue // it gets no more
			}
			p, err := a.pool.Peer(in.Addr)
			if err == nil {
				err = p.KeepPlaces(ctx, part)
			}
			if failed[in.ID] = err; err == nil {
				sent[in.ID] += len(part.Hashes)
			}
		}
		return nil
	})
	for id, n := range sent {
		a.opts.Logger.Info("active series handed over", "ingester", id, "series", n)
	}
	for id, failure := range failed {
		err = errors.Join(err, wrapPeer(id, failure))
	}
	if err != nil {
		a.opts.Logger.Warn("not all active series were handed over; those that no other replica knows are new to the ingesters that take them", "err", err)
	}
}

func wrapPeer(id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ingester %s: %w", id, err)
}

// askForActive asks the other ingesters for the active series that this one will
// take, which has an empty disk, and keeps places for them. It does what it can: a
// failure is logged.
func (a *App) askForActive(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	r, err := a.members.Ring(ctx)
	if errors.Is(err, ringredis.ErrUnknown) {
		a.opts.Logger.Info("ring not known yet, as in a new cluster: no ingester is asked for the active series that this one will take")
		return
	}
	if err != nil {
		a.opts.Logger.Warn("could not ask for the active series that this ingester will take: the ring is not known", "err", err)
		return
	}
	self := a.members.Self().ID
	const atOnce = 4
	slots := make(chan struct{}, atOnce)
	var asking sync.WaitGroup
	for i := range r.Instances() {
		in := &r.Instances()[i]
		if in.ID == self || in.State == ring.Joining || in.Unhealthy {
			continue
		}
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			n, err := a.askOne(ctx, in, self)
			if err != nil {
				a.opts.Logger.Warn("an ingester did not hand over all active series that this one will take; those that no other replica knows are new here", "ingester", in.ID, "series", n, "err", err)
			} else if n > 0 {
				a.opts.Logger.Info("active series received", "ingester", in.ID, "series", n)
			}
		})
	}
	asking.Wait()
}

// askOne asks one ingester, and returns how many series it named.
func (a *App) askOne(ctx context.Context, in *ring.Instance, self string) (int, error) {
	var p *rpc.Peer
	p, err := a.pool.Peer(in.Addr)
	if err != nil {
		return 0, err
	}
	n := 0
	err = p.ActiveSeries(ctx, self, func(s *ingester.ActiveSeries) error {
		n += len(s.Hashes)
		return a.ingester.KeepPlaces(ctx, s)
	})
	return n, err
}
