package distributor

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/election"
)

// haCluster is the state of a cluster's election in this process. HA.mu guards it.
//
// A response of the store is a lease. The store elects no other replica until the
// failover time has passed since the last reported sample of the elected replica,
// so it need not be called until then. Run reports samples of the elected replica
// to the store concurrently with requests, at most once per update interval, which
// renews the lease before it expires.
type haCluster struct {
	key      election.Cluster
	elected  string
	received time.Time // when a sample of the elected replica was last received, by this process or as reported by the store
	seen     time.Time // when this process last received a sample of any replica

	lease    time.Time // the store elects no other replica before this time
	called   time.Time // when the last completed call of the store began
	reported time.Time // samples received until this time are reported to the store
	call     *haCall   // in progress, or nil
}

// haCall is a call of the store in progress.
type haCall struct {
	done chan struct{}
	err  error // valid once done is closed
}

// elected records that a sample of a replica was received, and reports whether the
// replica is the elected one. ok is false when the tenant already has the maximum
// number of clusters.
func (h *HA) elected(ctx context.Context, k election.Cluster, replica string, most int, p *patience) (elected, ok bool) {
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
	// Samples of a replica that is not elected cause at most one call per update
	// interval. A sample of the elected replica causes a call even within that
	// interval: after the lease only the store knows whether the replica is still
	// elected.
	alone := h.down || h.closed || p.over
	if !alone && c.elected != "" && c.elected != replica && now.Sub(c.called) < h.o.Update {
		return false, true
	}
	if !alone {
		call := c.call
		if call == nil {
			call = h.claim(c, strings.Clone(replica), now)
		}
		h.mu.Unlock()
		done := p.wait(ctx, h.o.CallTimeout, call.done)
		h.mu.Lock()
		alone = !done || call.err != nil
	}
	if alone && ctx.Err() == nil {
		h.decide(c, replica, now)
	}
	return replica == c.elected, true
}

// decide elects a replica without the store: the first replica seen, and another
// one when nothing was received from the elected replica for the failover time.
func (h *HA) decide(c *haCluster, replica string, now time.Time) {
	if c.elected == "" || c.elected != replica && now.Sub(c.received) > h.o.Failover {
		h.change(c, strings.Clone(replica), now)
	}
}

func (h *HA) change(c *haCluster, to string, received time.Time) {
	if c.elected != "" {
		h.changes.Inc()
		h.o.Logger.Info("elected replica of HA cluster changed",
			"tenant", string(c.key.Tenant), "cluster", c.key.Name, "replica", to, "previous", c.elected)
	}
	c.elected, c.received = to, received
}

// claim calls the store in a new goroutine, because a request that waits for the
// result may time out. replica, if not empty, is a replica from which a sample was
// received just now. h.mu must be held.
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
		c.called = now
		h.setHealth(err)
		if err == nil {
			h.update(c, s, now)
		}
		close(call.done)
	})
	return call
}

// update sets the state of a cluster to the result of a call of the store that
// began at the given time.
func (h *HA) update(c *haCluster, s election.Sighting, began time.Time) {
	received := began.Add(-s.Age)
	if s.Replica != c.elected {
		h.change(c, s.Replica, received)
	} else if received.After(c.received) {
		c.received = received
	}
	c.lease = began.Add(h.o.Failover - s.Age)
	c.reported = began
}

// setHealth records whether the last call of the store succeeded.
func (h *HA) setHealth(err error) {
	if err != nil {
		h.failures.Inc()
	}
	switch down := err != nil; {
	case down && !h.down:
		h.o.Logger.Warn("HA store unreachable: electing replicas without it", "err", err)
	case !down && h.down:
		h.o.Logger.Info("HA store reachable again")
	}
	h.down = err != nil
}

// Run renews claims and deletes idle clusters until ctx ends.
func (h *HA) Run(ctx context.Context) {
	tick := time.NewTicker(max(h.o.Update/30, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.renew()
		case <-ctx.Done():
			h.mu.Lock()
			h.closed = true // no more calls may begin
			h.mu.Unlock()
			h.calls.Wait()
			return
		}
	}
}

// renew reports samples to the store that were received since the last report.
// While the store is down, renew probes it with a single cluster.
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

// renewOne renews the claim of a cluster and waits for the result. While the store
// is down, it does so only if probe is set.
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

// due returns the clusters whose claims must be renewed, and deletes idle ones.
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
			case c.received.After(c.reported) && (h.down || now.Sub(c.called) >= h.o.Update):
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
