package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/policies/limits"
)

// membership is the cluster part of a backend.
type membership struct {
	replication int
	members     *ringredis.Membership
	pool        *rpc.Pool // connections to other processes
	server      *rpc.Server
	recovery    *recovery.Recovery
	leaver      *recovery.Leaver // nil without an ingester
}

// self returns this process's ring instance, from the configuration and the host name.
func (p *process) self() (ring.Instance, error) {
	c := &p.cfg.Cluster
	self := ring.Instance{ID: c.Instance, Addr: c.Advertise, Zone: c.Zone, Roles: p.targets.names()}
	host, err := os.Hostname()
	if err != nil && (self.ID == "" || self.Addr == "") {
		return self, fmt.Errorf("the host name is unknown: set cluster.instance and cluster.advertise: %w", err)
	}
	if self.ID == "" {
		self.ID = host
	}
	if self.Addr == "" {
		_, port, err := net.SplitHostPort(p.cfg.RPCListen)
		if err != nil {
			return self, fmt.Errorf("rpc_listen: %w", err)
		}
		self.Addr = net.JoinHostPort(host, port)
	}
	if !instanceName.MatchString(self.ID) {
		return self, fmt.Errorf("host name %q is not a valid instance name: set cluster.instance", self.ID)
	}
	return self, nil
}

// joinRing opens the ring and the connections to other members. startIngester and
// serveCluster make this process a member.
func (p *process) joinRing(b *backend) (*membership, error) {
	self, err := p.self()
	if err != nil {
		return nil, err
	}
	o := ringredis.Options{Client: p.redis, Signer: p.security, Self: self, Logger: p.opts.Logger, Registerer: p.registry}
	if p.targets[TargetIngester] {
		o.File = filepath.Join(p.cfg.DataDir, "ring.json")
		if o.HasData, err = hasFiles(filepath.Join(p.cfg.DataDir, "ingester")); err != nil {
			return nil, err
		}
	}
	m := &membership{replication: p.cfg.Cluster.Replication}
	if m.members, err = ringredis.Open(o); err != nil {
		return nil, err
	}
	p.onClose("ring membership", m.members.Close)
	m.pool = rpc.NewPool(p.security)
	p.onClose("connections to other processes", m.pool.Close)
	m.recovery = recovery.New(recovery.Options{
		Members: m.members, Store: b.longTerm, Replication: m.replication, ShardSize: m.shardSize, Limits: p.limitsOf,
		Peer:   func(in *ring.Instance) (recovery.Peer, error) { return m.pool.Peer(in.Addr) },
		Logger: p.opts.Logger, Now: p.opts.Now,
	})
	return m, nil
}

// startIngester joins the ring and opens the ingester. The ingester receives writes once the
// process listens; see activateIngester.
func (m *membership) startIngester(ctx context.Context, b *backend) error {
	b.startup.step("waiting for Redis to join the ring")
	if err := m.members.Join(ctx, ring.Joining); err != nil {
		return err
	}
	b.startup.step("checking whether an ingester of this name was lost with its disk; if so, waiting until all queriers have read the loss")
	fresh, err := m.recovery.MarkPredecessor(ctx)
	if err != nil {
		return err
	}
	self := m.members.Self()
	if err := b.openIngester(ctx, ingester.Options{ID: self.ID, Zone: self.Zone, Replication: m.replication,
		ShardSize: func(_ tenant.ID, lim *limits.Limits) int { return m.shardOf(b.background.Context(), lim) },
		TakenBy:   m.recovery.TakenBy, MarkDamaged: m.recovery.MarkDamaged}); err != nil {
		return err
	}
	b.startup.step("reading deletions of series")
	m.leaver = m.recovery.Leaver(b.ingester)
	if err := b.learnDeletions(ctx); err != nil {
		return err
	}
	if fresh {
		m.recovery.RequestActive(ctx, b.ingester)
	}
	return nil
}

// serveCluster builds the rpc server, and makes a process without an ingester a member.
func (b *backend) serveCluster(ctx context.Context) error {
	m := b.cluster
	if !b.has(TargetIngester) {
		if err := m.members.Join(ctx, ring.Active); err != nil {
			return err
		}
	}
	var ing rpc.Ingester
	var comp rpc.Compactor
	if b.ingester != nil {
		ing = b.ingester
	}
	if b.compactor != nil {
		comp = b.compactor
	}
	m.server = rpc.NewServer(b.security, ing, comp, b.memory)
	m.server.ServeOperator(called{b})
	if q := b.queries; q != nil && q.server != nil {
		m.server.ServeFrontend(frontendCalls{q.server, q.dispatcher})
	}
	b.addRuler()
	b.addAlertmanager()
	return nil
}

// activateIngester marks an ingester of a cluster ACTIVE, so that it receives writes.
func (b *backend) activateIngester(ctx context.Context) {
	if b.cluster == nil {
		return
	}
	if err := b.cluster.members.SetState(ctx, ring.Active); err != nil {
		b.opts.Logger.Warn("failed to mark this ingester ACTIVE in Redis; retrying with the next heartbeat", "err", err)
	}
}

// restoreOwn makes replicas upload the windows that an earlier ingester with the name of this one
// lost with its disk.
func (b *backend) restoreOwn(ctx context.Context) {
	if b.cluster != nil {
		b.cluster.recovery.Restore(ctx, b.id())
	}
}

// zonesMissing returns an error while a distributor of this process would reject all
// writes.
func (b *backend) zonesMissing(ctx context.Context) error {
	if b.cluster == nil {
		return nil
	}
	r, err := b.cluster.members.Ring(ctx)
	if err != nil {
		return err
	}
	return distributor.EnoughZones(r, b.cluster.replication)
}

// watchZones logs when zonesMissing changes.
func (b *backend) watchZones(ctx context.Context) {
	if b.cluster != nil && b.cluster.members.Wait(ctx) == nil {
		distributor.WatchZones(ctx, b.cluster.members, b.cluster.replication, b.opts.Logger)
	}
}

// shardSize returns the number of ingesters in a tenant's shard: enough for its limit of active
// series, in steps, so that most small changes of the limit move no series. 0 means all.
func (m *membership) shardSize(lim *limits.Limits) int {
	if lim.MaxActiveSeries <= 0 {
		return 0
	}
	const seriesEach = 100_000
	need := (lim.MaxActiveSeries + seriesEach - 1) / seriesEach * m.replication
	return max(need, m.replication)
}

// shardOf returns shardSize, limited to the number of ingesters.
func (m *membership) shardOf(ctx context.Context, lim *limits.Limits) int {
	n := m.shardSize(lim)
	r, err := m.members.Ring(ctx)
	if err != nil {
		return n
	}
	if all := len(r.Instances()); n == 0 || n > all {
		return all
	}
	return n
}

// distribute sets the options for a distributor that writes to the ingesters of the ring.
func (m *membership) distribute(b *backend, o *distributor.Options) {
	o.Ring, o.Replication, o.ShardSize, o.Memory = m.members, m.replication, m.shardSize, b.memory
	o.Replica = func(in *ring.Instance) (distributor.Replica, error) { return m.pool.Peer(in.Addr) }
}

// recent returns the ingesters of the ring for queries.
func (m *membership) recent(b *backend) *querier.Ingesters {
	return querier.NewIngesters(querier.IngestersOptions{Tolerate: m.replication / 2, Lost: m.recovery.LostDomains,
		Peers: func(ctx context.Context) ([]querier.Peer, error) {
			list, err := m.ingesters(ctx)
			var out []querier.Peer
			for _, p := range list {
				out = append(out, querier.Peer{ID: p.ID, Domain: p.Domain, Unhealthy: p.Unhealthy, Client: p.Client})
			}
			return out, err
		}})
}

// deleteRecent deletes series from all ingesters. All must succeed.
func (m *membership) deleteRecent(ctx context.Context, id tenant.ID, ts schema.Tombstone) error {
	return m.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error { return p.Delete(ctx, id, ts) })
}

// ingesters returns clients of all ingesters of the ring.
func (m *membership) ingesters(ctx context.Context) ([]peers.Peer[*rpc.Peer], error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	var out []peers.Peer[*rpc.Peer]
	for i := range r.Instances() {
		in := &r.Instances()[i]
		p, err := m.pool.Peer(in.Addr)
		if err != nil {
			return nil, err
		}
		out = append(out, peers.Peer[*rpc.Peer]{ID: in.ID, Domain: in.Domain(), Unhealthy: in.Unhealthy, Client: p})
	}
	return out, nil
}

// eachIngester calls fn for every ingester of the ring. All must succeed.
func (m *membership) eachIngester(ctx context.Context, fn func(context.Context, *rpc.Peer) error) error {
	list, err := m.ingesters(ctx)
	if err == nil && len(list) == 0 {
		err = errors.New("no ingesters in the ring")
	}
	if err != nil {
		return err
	}
	_, err = peers.All(ctx, list, func(ctx context.Context, p *rpc.Peer) (struct{}, error) { return struct{}{}, fn(ctx, p) })
	return err
}

// called runs operators' commands that other processes send to this one; it implements
// rpc.Operator.
type called struct{ b *backend }

// Leave implements rpc.Operator.
func (c called) Leave(ctx context.Context, wait bool) error {
	leaver := c.b.cluster.leaver
	if leaver == nil {
		return fmt.Errorf("%w: this process is not an ingester", rpc.ErrConflict)
	}
	err := leaver.Check(ctx)
	switch {
	case errors.Is(err, recovery.ErrHasAside) || errors.Is(err, recovery.ErrNeeded):
		return fmt.Errorf("%w: %w", rpc.ErrConflict, err)
	case err != nil:
		return err
	case !wait:
		c.b.background.Go(func(ctx context.Context) {
			if err := leaver.Leave(ctx); err != nil {
				c.b.opts.Logger.Error("could not leave the ring: repeat the command", "err", err)
			}
		})
		return nil
	}
	err = leaver.Leave(ctx)
	if errors.Is(err, recovery.ErrHasAside) || errors.Is(err, recovery.ErrLeaving) {
		return fmt.Errorf("%w: %w", rpc.ErrConflict, err)
	}
	return err
}

// AcceptLoss implements rpc.Operator.
func (c called) AcceptLoss(day int64) (int, error) {
	if c.b.ingester == nil {
		return 0, nil
	}
	return c.b.ingester.AcceptLoss(day)
}

// Status implements rpc.Operator.
func (c called) Status(context.Context) ([]byte, error) { return json.Marshal(c.b.ownStatus()) }

// EndQuery implements rpc.Operator.
func (c called) EndQuery(id string) ([]byte, error) {
	q, ok := c.b.api.Active.End(id)
	if !ok {
		return nil, nil
	}
	return json.Marshal(q)
}

// pruneInterval is how often connections to instances that left are closed.
const pruneInterval = 30 * time.Second

// prune closes connections to instances that left, until ctx is done.
func (m *membership) prune(ctx context.Context) {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r, err := m.members.Ring(ctx)
		if err != nil {
			continue
		}
		addrs := map[string]bool{}
		for _, in := range r.Instances() {
			addrs[in.Addr] = true
		}
		for _, in := range r.Others() {
			addrs[in.Addr] = true
		}
		m.pool.Keep(addrs)
	}
}
