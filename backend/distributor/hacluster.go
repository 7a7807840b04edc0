package distributor

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/election"
)

// haCluster is what this process knows of a cluster's election. HA.mu guards it.
//
// An answer of the store is a lease: until the elected replica has been silent
// for the failover time, as far as the store was told, no other can be elected
// there, so that till then nobody needs to be asked. Samples of the elected
// replica are told to the store beside requests, at most once per update
// interval, which renews the lease before it ends.
type haCluster struct {
	key      election.Cluster
	elected  string
	received time.Time // when a sample of it was last received, as far as known
	seen     time.Time // when a sample of any replica was

	lease time.Time // until when the store elects no other
	asked time.Time // when the store was last asked
	told  time.Time // the store knows what was received up to then
	call  *haCall   // under way
}

// haCall is a call of the store under way.
type haCall struct {
	done chan struct{}
	err  error // to be read when done is closed
}

// elected tells that a sample of a replica was received, and reports whether the
// replica is the elected one. room is false when the cluster is one too many.
func (h *HA) elected(ctx context.Context, k election.Cluster, replica string, most int, p *patience) (elected, room bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.cluster(k, most)
	if c == nil {
		return false, false
	}
	now := h.o.Now()
	c.seen = now
	if replica == c.elected {
		c.received = now
	}
	if !now.After(c.lease) {
		return replica == c.elected, true
	}
	// A replica that waits to be elected asks once per interval only. The elected
	// one cannot be told anything but the store's answer.
	alone := h.down || h.closed || p.over
	if !alone && c.elected != "" && c.elected != replica && now.Sub(c.asked) < h.o.Update {
		return false, true
	}
	if !alone {
		call := c.call
		if call == nil {
			call = h.claim(c, strings.Clone(replica), now)
		}
		h.mu.Unlock()
		answered := p.wait(ctx, h.o.CallTimeout, call.done)
		h.mu.Lock()
		alone = !answered || call.err != nil
	}
	if alone && ctx.Err() == nil {
		h.decide(c, replica, now)
	}
	return replica == c.elected, true
}

// decide elects without the store: the first that is seen, and another when the
// elected one was silent for too long.
func (h *HA) decide(c *haCluster, replica string, now time.Time) {
	if c.elected == "" || c.elected != replica && now.Sub(c.received) > h.o.Failover {
		h.change(c, strings.Clone(replica), now)
	}
}

func (h *HA) change(c *haCluster, to string, received time.Time) {
	if c.elected != "" {
		h.changes.Inc()
		h.o.Logger.Info("another replica of a cluster is elected",
			"tenant", string(c.key.Tenant), "cluster", c.key.Name, "replica", to, "before", c.elected)
	}
	c.elected, c.received = to, received
}

// claim asks the store, on a goroutine of its own: whoever waits for the answer
// may give up. replica is one that a sample was received from now, if it is not
// empty. h.mu is held.
func (h *HA) claim(c *haCluster, replica string, now time.Time) *haCall {
	var seen []election.Sighting
	if c.elected != "" {
		seen = append(seen, election.Sighting{Replica: c.elected, Age: now.Sub(c.received)})
	}
	if replica != "" && replica != c.elected {
		seen = append(seen, election.Sighting{Replica: replica})
	}
	call := &haCall{done: make(chan struct{})}
	c.call = call
	h.calls.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), h.o.CallTimeout)
		defer cancel()
		s, err := h.o.Store.Claim(ctx, c.key, seen, h.rules)
		h.mu.Lock()
		defer h.mu.Unlock()
		c.call, call.err = nil, err
		c.asked = now
		h.health(err)
		if err == nil {
			h.learn(c, s, now)
		}
		close(call.done)
	})
	return call
}

// learn takes over the store's answer to a call that began at a time.
func (h *HA) learn(c *haCluster, s election.Sighting, began time.Time) {
	received := began.Add(-s.Age)
	if s.Replica != c.elected {
		h.change(c, s.Replica, received)
	} else if received.After(c.received) {
		c.received = received
	}
	c.lease = began.Add(h.o.Failover - s.Age)
	c.told = began
}

// health notes whether the store answers.
func (h *HA) health(err error) {
	if err != nil {
		h.failures.Inc()
	}
	switch down := err != nil; {
	case down && !h.down:
		h.o.Logger.Warn("elections of HA replicas cannot be agreed on; the last known ones hold", "err", err)
	case !down && h.down:
		h.o.Logger.Info("elections of HA replicas are agreed on again")
	}
	h.down = err != nil
}

// Run renews claims and forgets idle clusters until ctx ends.
func (h *HA) Run(ctx context.Context) {
	tick := time.NewTicker(max(h.o.Update/30, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.renew()
		case <-ctx.Done():
			h.mu.Lock()
			h.closed = true // no further call begins
			h.mu.Unlock()
			h.calls.Wait()
			return
		}
	}
}

// renew tells the store what was received and it does not know. While it does
// not answer, one cluster finds out whether it does again.
func (h *HA) renew() {
	due := h.due()
	work := make(chan *haCluster)
	var workers sync.WaitGroup
	for range min(haWorkers, len(due)) {
		workers.Go(func() {
			for c := range work {
				h.renewOne(c, len(due) == 1)
			}
		})
	}
	for _, c := range due {
		work <- c
	}
	close(work)
	workers.Wait()
}

// renewOne claims for a cluster and waits for the answer. With a store that is
// down that is done only as a probe.
func (h *HA) renewOne(c *haCluster, probe bool) {
	h.mu.Lock()
	if c.call != nil || h.down && !probe {
		h.mu.Unlock()
		return
	}
	call := h.claim(c, "", h.o.Now())
	h.mu.Unlock()
	<-call.done
}

// due lists the clusters to claim for, and forgets idle ones.
func (h *HA) due() []*haCluster {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.o.Now()
	var due []*haCluster
	for id, of := range h.tenants {
		for name, c := range of {
			switch {
			case c.call != nil:
			case now.Sub(c.seen) > h.o.Idle:
				delete(of, name)
			case c.received.After(c.told) && (h.down || now.Sub(c.asked) >= h.o.Update):
				due = append(due, c)
			}
		}
		if len(of) == 0 {
			delete(h.tenants, id)
		}
	}
	if h.down && len(due) > 1 {
		due = due[:1]
	}
	return due
}
