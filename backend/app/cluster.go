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
	"github.com/palliumhq/pallium/backend/querier"
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

// peers lists the ring's ingesters for queries.
func (a *App) peers(ctx context.Context) ([]querier.Peer, error) {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	var out []querier.Peer
	for i := range r.Instances() {
		in := &r.Instances()[i]
		p, err := a.pool.Peer(in.Addr)
		if err != nil {
			return nil, err
		}
		out = append(out, querier.Peer{ID: in.ID, Domain: in.Domain(), Unhealthy: in.Unhealthy, Ingester: p})
	}
	return out, nil
}

// lossesFor is how long an answer about losses is used.
const lossesFor = 5 * time.Second

// lostDomains lists the zones in which an ingester was lost with samples of the
// tenant and range that are not known to be uploaded by others.
func (a *App) lostDomains(ctx context.Context, id tenant.ID, mint, maxt int64) ([]string, error) {
	a.lossMu.Lock()
	defer a.lossMu.Unlock()
	// The time of asking counts, and no injected clock.
	if now := time.Now(); a.lossesAt.IsZero() || now.Sub(a.lossesAt) > lossesFor {
		list, err := a.longTerm.Losses(ctx)
		if err != nil {
			return nil, err
		}
		a.losses, a.lossesAt = list, now
	}
	var out []string
	for i := range a.losses {
		l := &a.losses[i]
		domain := ring.Instance{ID: l.Ingester, Zone: l.Zone}
		if l.Overlaps(mint, maxt) && (l.Tenant == "" || l.Tenant == id) && !slices.Contains(out, domain.Domain()) {
			out = append(out, domain.Domain())
		}
	}
	return out, nil
}

// eachIngester calls fn for every ingester of the ring, side by side. All must
// succeed.
func (a *App) eachIngester(ctx context.Context, fn func(context.Context, *rpc.Peer) error) error {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return err
	}
	if len(r.Instances()) == 0 {
		return errors.New("there are no ingesters in the ring")
	}
	const atOnce = 16
	slots := make(chan struct{}, atOnce)
	errs := make(chan error, len(r.Instances()))
	for i := range r.Instances() {
		in := &r.Instances()[i]
		go func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			p, err := a.pool.Peer(in.Addr)
			if err == nil {
				err = fn(ctx, p)
			}
			if err != nil {
				err = fmt.Errorf("ingester %s: %w", in.ID, err)
			}
			errs <- err
		}()
	}
	var all error
	for range r.Instances() {
		all = errors.Join(all, <-errs)
	}
	return all
}

const (
	restoreEvery = 10 * time.Second
	flushTimeout = 10 * time.Minute
)

// restore makes sure that what an ingester was lost with is elsewhere: all others
// upload what they have now, upon which any one of them may be lost again. It
// tries until that is so or ctx is done.
func (a *App) restore(ctx context.Context, ingester string) {
	for {
		left, err := a.longTerm.LossesOf(ctx, ingester)
		if err == nil && left == 0 {
			return
		}
		if err == nil {
			flush, cancel := context.WithTimeout(ctx, flushTimeout)
			err = a.eachIngester(flush, func(ctx context.Context, p *rpc.Peer) error { return p.Flush(ctx) })
			cancel()
		}
		if err == nil {
			left, err = a.longTerm.SettleLoss(ctx, ingester)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.opts.Logger.Warn("lost ingester's data not fully recovered yet: waiting for replicas to upload; retrying", "ingester", ingester, "err", err)
		case left > 0:
			a.opts.Logger.Error("ingesters of two zones were lost before what they had was uploaded: acknowledged samples may be lost; queries of that time fail until an operator accepts it by POST /admin/v1/compact/accept-loss?day=DAY", "ingester", ingester, "windows", left)
			return
		default:
			a.opts.Logger.Info("what a lost ingester had is uploaded by the others", "ingester", ingester)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(restoreEvery):
		}
	}
}
