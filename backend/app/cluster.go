package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/policies/limits"
)

// Cluster has what a process needs to be one of many.
type Cluster struct {
	// Instance names this process in the ring; default: the host's name.
	Instance string `yaml:"instance"`
	// Advertise is the host:port at which others reach rpc_listen; default: the
	// host's name and its port.
	Advertise   string `yaml:"advertise"`
	Zone        string `yaml:"zone"`
	Replication int    `yaml:"replication"` // ingesters that hold each series
	// Redis has the ring. CacheRedis has what may be evicted, such as shares of
	// rate budgets; default: the same server.
	Redis      redisconn.Config `yaml:"redis"`
	CacheRedis redisconn.Config `yaml:"cache_redis"`
	TLS        cluster.TLSFiles `yaml:"tls"` // certificates between processes
	// PlainText leaves out encryption between processes.
	PlainText bool `yaml:"insecure_plain_text"`
}

var instanceName = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,126}[a-zA-Z0-9])?$`)

func (c *Cluster) check() error {
	switch {
	case c.Instance != "" && !instanceName.MatchString(c.Instance):
		return fmt.Errorf("instance %q must be 1 to 128 letters, digits, '.', '_' and '-'", c.Instance)
	case c.Zone != "" && !instanceName.MatchString(c.Zone):
		return fmt.Errorf("zone %q must be 1 to 128 letters, digits, '.', '_' and '-'", c.Zone)
	case c.Replication < 1 || c.Replication > 7 || c.Replication%2 == 0:
		return fmt.Errorf("replication is %d; choose 1, 3, 5 or 7", c.Replication)
	}
	if err := c.Redis.Check(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := c.CacheRedis.Check(); err != nil {
		return fmt.Errorf("cache_redis: %w", err)
	}
	return nil
}

// Targets are the roles of a backend process.
type Targets map[Target]bool

// Target is one role of a backend process.
type Target string

// The targets that exist.
const (
	TargetDistributor Target = "distributor"
	TargetIngester    Target = "ingester"
	TargetCompactor   Target = "compactor"
	TargetQuerier     Target = "querier"
)

// ParseTargets reads a list such as "distributor,querier"; "all" is all of them.
func ParseTargets(list string) (Targets, error) {
	all := []Target{TargetDistributor, TargetIngester, TargetCompactor, TargetQuerier}
	out := Targets{}
	for _, name := range strings.Split(list, ",") {
		t := Target(strings.TrimSpace(name))
		switch {
		case t == "all":
			for _, t := range all {
				out[t] = true
			}
		case slices.Contains(all, t):
			out[t] = true
		default:
			return nil, fmt.Errorf("-target: there is no role %q; choose of distributor, ingester, compactor, querier, or all", name)
		}
	}
	return out, nil
}

func (t Targets) names() []string {
	var out []string
	for name := range t {
		out = append(out, string(name))
	}
	slices.Sort(out)
	return out
}

// buildSecurity makes what proves that this process belongs to the cluster. A
// gateway may be before a backend that knows no such thing.
func (a *App) buildSecurity() error {
	o := cluster.Options{TLS: a.cfg.Cluster.TLS, PlainText: a.cfg.Cluster.PlainText}
	if _, ok := a.opts.Env("PALLIUM_CLUSTER_SECRET"); ok || hasFile(a.opts.Env, "PALLIUM_CLUSTER_SECRET") {
		value, _, _, err := (secret{name: "PALLIUM_CLUSTER_SECRET", file: "cluster-secret"}).load(a.cfg.DataDir, a.opts.Env)
		if err != nil {
			return fmt.Errorf("cluster secret: %w", err)
		}
		if o.Secrets, err = cluster.ParseSecrets(value); err != nil {
			return fmt.Errorf("PALLIUM_CLUSTER_SECRET: %w", err)
		}
	}
	if o.Secrets == nil && o.TLS == (cluster.TLSFiles{}) && a.opts.Role == Gateway {
		return nil
	}
	if o.PlainText {
		a.opts.Logger.Warn("connections between processes are not encrypted: cluster.insecure_plain_text is set")
	}
	var err error
	a.security, err = cluster.New(o)
	return err
}

// dialBackend connects to the internal_listen of a backend of this cluster.
func (a *App) dialBackend() func(ctx context.Context, network, addr string) (net.Conn, error) {
	return a.security.Dial((&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
}

func hasFile(env func(string) (string, bool), name string) bool {
	_, ok := env(name + "_FILE")
	return ok
}

// openRedis opens the servers that are configured.
func (a *App) openRedis() error {
	c := &a.cfg.Cluster
	password, _, err := optionalSecret(a.opts.Env, "PALLIUM_REDIS_PASSWORD")
	if err != nil {
		return err
	}
	cachePassword, own, err := optionalSecret(a.opts.Env, "PALLIUM_CACHE_REDIS_PASSWORD")
	if err != nil {
		return err
	}
	if !own {
		cachePassword = password
	}
	open := func(cfg redisconn.Config, password string) (goredis.UniversalClient, error) {
		client, err := redisconn.Open(cfg, password)
		if err == nil {
			a.onClose("connections to Redis", client.Close)
		}
		return client, err
	}
	if c.Redis.Set() {
		if a.redis, err = open(c.Redis, password); err != nil {
			return fmt.Errorf("cluster.redis: %w", err)
		}
	}
	a.cacheRedis = a.redis
	if c.CacheRedis.Set() {
		if a.cacheRedis, err = open(c.CacheRedis, cachePassword); err != nil {
			return fmt.Errorf("cluster.cache_redis: %w", err)
		}
	}
	return nil
}

// optionalSecret reads an environment variable, or the file that name_FILE names.
func optionalSecret(env func(string) (string, bool), name string) (value string, set bool, err error) {
	if path, ok := env(name + "_FILE"); ok {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", true, fmt.Errorf("%s_FILE: %w", name, err)
		}
		return strings.TrimSpace(string(data)), true, nil
	}
	value, set = env(name)
	return value, set, nil
}

// joinRing makes this process a member of the ring, an ingester with a place.
func (a *App) joinRing() error {
	c := &a.cfg.Cluster
	if a.redis == nil {
		return errors.New("cluster.redis.addresses is empty: processes of a cluster find each other by a Redis server")
	}
	self := ring.Instance{ID: c.Instance, Addr: c.Advertise, Zone: c.Zone, Roles: a.opts.Targets.names()}
	host, err := os.Hostname()
	if err != nil && (self.ID == "" || self.Addr == "") {
		return fmt.Errorf("the host has no name: set cluster.instance and cluster.advertise: %w", err)
	}
	if self.ID == "" {
		self.ID = host
	}
	if self.Addr == "" {
		_, port, err := net.SplitHostPort(a.cfg.RPCListen)
		if err != nil {
			return fmt.Errorf("rpc_listen: %w", err)
		}
		self.Addr = net.JoinHostPort(host, port)
	}
	if !instanceName.MatchString(self.ID) {
		return fmt.Errorf("the host's name %q cannot name an instance; set cluster.instance", self.ID)
	}
	o := ringredis.Options{Client: a.redis, Signer: a.security, Self: self, Logger: a.opts.Logger, Registerer: a.registry}
	if a.opts.Targets[TargetIngester] {
		o.File = filepath.Join(a.cfg.DataDir, "ring.json")
		if o.Holds, err = hasFiles(filepath.Join(a.cfg.DataDir, "ingester")); err != nil {
			return err
		}
	}
	if a.members, err = ringredis.Open(o); err != nil {
		return err
	}
	a.onClose("membership in the ring", a.members.Close)
	a.pool = rpc.NewPool(a.security)
	a.onClose("connections to other processes", a.pool.Close)
	return nil
}

// shardSize is how many ingesters take a tenant's series: enough for its limit,
// in steps so that a small change of the limit moves nothing.
func (a *App) shardSize(lim *limits.Limits) int {
	if lim.MaxActiveSeries <= 0 {
		return 0
	}
	const seriesEach = 100_000
	need := (lim.MaxActiveSeries + seriesEach - 1) / seriesEach * a.cfg.Cluster.Replication
	return max(need, a.cfg.Cluster.Replication)
}

// shardOf is shardSize, but not more than there are ingesters.
func (a *App) shardOf(_ tenant.ID, lim *limits.Limits) int {
	n := a.shardSize(lim)
	r, err := a.members.Ring(a.running)
	if err != nil {
		return n
	}
	if all := len(r.Instances()); n == 0 || n > all {
		return all
	}
	return n
}

// ingesters lists the ring's ingesters as they are called.
func (a *App) ingesters(ctx context.Context) ([]peers.Peer[*rpc.Peer], error) {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	var out []peers.Peer[*rpc.Peer]
	for i := range r.Instances() {
		in := &r.Instances()[i]
		p, err := a.pool.Peer(in.Addr)
		if err != nil {
			return nil, err
		}
		out = append(out, peers.Peer[*rpc.Peer]{ID: in.ID, Domain: in.Domain(), Unhealthy: in.Unhealthy, Client: p})
	}
	return out, nil
}

// toQuery is ingesters for the querier.
func (a *App) toQuery(ctx context.Context) ([]querier.Peer, error) {
	list, err := a.ingesters(ctx)
	var out []querier.Peer
	for _, p := range list {
		out = append(out, querier.Peer{ID: p.ID, Domain: p.Domain, Unhealthy: p.Unhealthy, Client: p.Client})
	}
	return out, err
}

// eachIngester calls fn for every ingester of the ring. All must succeed.
func (a *App) eachIngester(ctx context.Context, fn func(context.Context, *rpc.Peer) error) error {
	list, err := a.ingesters(ctx)
	if err == nil && len(list) == 0 {
		err = errors.New("there are no ingesters in the ring")
	}
	if err != nil {
		return err
	}
	_, err = peers.All(ctx, list, func(ctx context.Context, p *rpc.Peer) (struct{}, error) { return struct{}{}, fn(ctx, p) })
	return err
}

// newRecovery returns what sees to ingesters that join, leave or are lost.
func (a *App) newRecovery() *recovery.Recovery {
	return recovery.New(recovery.Options{
		Members: a.members, Store: a.longTerm, Replication: a.cfg.Cluster.Replication, ShardSize: a.shardSize, Limits: a.limitsOf,
		Peer:   func(in *ring.Instance) (recovery.Peer, error) { return a.pool.Peer(in.Addr) },
		Logger: a.opts.Logger, Now: a.opts.Now,
	})
}
