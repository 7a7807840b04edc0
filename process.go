package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/policies/limits"
)

// Options are the options of a process that are not in the configuration file.
type Options struct {
	Role    Role
	Targets Targets // of a backend
	Version string
	Env     func(string) (string, bool)
	Logger  *slog.Logger
	Now     func() time.Time
	// Running returns the time since the process started, by a clock that cannot be set; nil means
	// the machine's monotonic clock, or Now if Now is set.
	Running func() time.Duration

	// Tests set these to wrap the stores.
	wrapRows    func(rows.Store) rows.Store
	wrapObjects func(objects.Store) objects.Store
}

// process is a server: its edge, its backend roles and the parts that they share. open builds it, and
// run serves until its context ends.
type process struct {
	cfg     Config
	opts    Options
	targets Targets // its backend roles; all of them in a single process

	registry             *prometheus.Registry
	memory               *memory.Account // of requests
	rowCache, localPages int64           // sizes in bytes of the caches of the embedded row store and of pages of local packs
	rows                 rows.Store
	control              *control.Control
	limitsOf             func(tenant.ID) limits.Limits
	// knownLimits is limitsOf without waiting for a row store that does not respond; see control.Remembered.Known.
	knownLimits func(tenant.ID) limits.Limits
	admin       *admin.Listener
	surface     admin.Surface // of the admin listener
	startup     *startup

	edge    *edge    // nil in a backend
	backend *backend // nil in a gateway

	// These connect this process with others, and prove that it is a member of the cluster. They
	// are nil in a single process.
	security          *cluster.Member
	signer            signer
	redis, cacheRedis goredis.UniversalClient

	serving atomic.Bool // the process serves requests

	// requests has the context of all requests, which ends when they are drained or
	// canceled. background runs work that requests started without waiting for it, and
	// ends before the parts are closed.
	requests, background *background.Group

	onServing []func() // called when the listeners are open
	closers   []closer // in the order of building
	ending    *ending
}

// open builds a process. The admin listener is open from the beginning and reports the progress.
// After an error everything is closed again. If ctx ends before the process is built, open returns
// an error within shutdown_timeout.
func open(ctx context.Context, cfg Config, o Options) (*process, error) {
	if err := errors.Join(cfg.Check(), o.check(&cfg)); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
		if o.Running == nil {
			o.Running = clock.Running()
		}
	}
	p := newProcess(cfg, o)
	err := p.bounded(ctx, p.startup.ending, func() error {
		err := p.openAdmin()
		if err == nil {
			err = p.checkAddresses()
		}
		if err == nil { // no file is changed before this
			if err = closeDataDir(cfg.DataDir); err != nil {
				err = fmt.Errorf("data_dir: %w", err)
			}
		}
		if err == nil {
			err = p.build(ctx)
		}
		if err != nil {
			p.requests.Cancel()
			err = notStarted(ctx, err, p.close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// check returns an error if the configuration does not fit the role.
func (o *Options) check(cfg *Config) error {
	switch {
	case o.Role == Gateway && len(cfg.Upstream.URLs) == 0:
		return errors.New("upstream.urls is empty: `pallium gateway` needs the URL of a Pallium, Mimir, Cortex or Loki backend to forward to")
	case o.Role == Backend && len(o.Targets) == 0:
		return fmt.Errorf("`pallium backend` needs roles: -target=all, or a list of %s", roleNames())
	case o.Role != Gateway && len(cfg.Upstream.URLs) > 0:
		return errors.New("upstream.urls is set: only `pallium gateway` forwards to another backend; run that, or remove upstream")
	}
	if o.Role == Backend {
		return o.Targets.check(cfg)
	}
	return cfg.Store.checkRole(o.Role, cfg.inCluster(o.Env))
}

// newProcess returns a process without parts.
func newProcess(cfg Config, o Options) *process {
	p := &process{cfg: cfg, opts: o, targets: o.Targets, registry: prometheus.NewRegistry(), ending: newEnding(), startup: newStartup(&o),
		background: background.New(), requests: background.New()}
	switch o.Role {
	case All:
		p.targets = allTargets()
	case Gateway:
		p.targets = nil
	}
	return p
}

func (p *process) build(ctx context.Context) error {
	if err := p.lockIngester(); err != nil {
		return err
	}
	if err := p.planMemory(); err != nil {
		return err
	}
	if p.opts.Role != All {
		if err := p.buildSecurity(); err != nil {
			return err
		}
		if err := p.openRedis(); err != nil {
			return err
		}
	}
	var keys edgeSecrets
	if p.opts.Role != Backend {
		var err error
		if keys, err = p.loadEdgeSecrets(); err != nil {
			return err
		}
	}
	if err := p.openControl(ctx, keys.pepper); err != nil {
		return err
	}
	if p.opts.Role != Backend {
		if err := p.openEdge(keys); err != nil {
			return err
		}
	}
	if p.opts.Role != Gateway {
		if err := p.buildBackend(ctx); err != nil {
			return err
		}
	}
	if p.opts.Role != Backend {
		if err := p.buildEdge(); err != nil {
			return err
		}
	}
	return p.buildSurface(keys.adminToken)
}

// openControl opens the row store and the control plane over it. Without a pepper, which
// only edges have, the control plane does not load API keys.
func (p *process) openControl(ctx context.Context, pepper *apikey.Pepper) (err error) {
	p.startup.step("opening the row store")
	if p.rows, err = p.openRows(ctx); err != nil {
		return err
	}
	p.onClose("row store", p.rows.Close)
	p.startup.step("reading tenants, keys and policies")
	o := control.Options{
		Store: p.rows, Keyless: pepper == nil, Defaults: limits.Merge(limits.Default(), p.cfg.Limits),
		Logger: p.opts.Logger, Registerer: p.registry, Now: p.opts.Now,
	}
	if pepper != nil {
		o.Pepper = *pepper
	}
	if p.control, err = control.Open(ctx, o); err != nil {
		return err
	}
	p.onServe(p.control.Start)
	p.onClose("control plane", func() error { p.control.Stop(); return nil })
	p.limitsOf, p.knownLimits = p.tenantLimits, p.tenantLimits
	if p.opts.Role == Backend {
		remembered := control.NewRemembered(p.background, p.control.Limits, p.fallbackLimits, p.opts.Now)
		p.limitsOf, p.knownLimits = remembered.Limits, remembered.Known
	}
	return nil
}

// tenantLimits returns a tenant's limits for the backend. If the store is unavailable and the
// limits are not cached, it returns the defaults without retention: with the default retention, a
// tenant with a longer one would lose data. It returns no error, because the edge has already
// authenticated the tenant.
func (p *process) tenantLimits(id tenant.ID) limits.Limits {
	lim, err := p.control.Limits(context.Background(), id)
	if err != nil {
		return p.fallbackLimits(err)
	}
	return lim
}

// fallbackLimits returns the limits to use after an error of reading a tenant's limits: the defaults,
// without retention if the tenant may exist.
func (p *process) fallbackLimits(err error) limits.Limits {
	lim := limits.Merge(limits.Default(), p.cfg.Limits)
	if !errors.Is(err, tenant.ErrUnknown) {
		lim.Retention = 0
	}
	return lim
}

// ready returns an error while the process cannot serve requests.
func (p *process) ready(ctx context.Context) error {
	if !p.serving.Load() {
		return errNotServing
	}
	if p.backend == nil || p.backend.cluster == nil {
		return nil
	}
	members := p.backend.cluster.members
	if self := members.Self(); self.State == ring.Leaving {
		return errors.New("this ingester is leaving the cluster")
	}
	if _, err := members.Ring(ctx); err != nil {
		return err
	}
	if p.targets[TargetQuerier] {
		return nil // queries work even if other roles are impaired
	}
	return p.impaired(ctx)
}

// impaired returns why roles of this process cannot do their work.
func (p *process) impaired(ctx context.Context) error {
	if p.backend == nil {
		return nil
	}
	var errs error
	for _, r := range p.backend.roles {
		if r.ready != nil {
			errs = errors.Join(errs, r.ready(p.backend, ctx))
		}
	}
	return errs
}

var errNotServing = errors.New("starting or stopping")

// reload reads the key sets of issuers and the edge's certificate again, and returns the names of
// the parts that it read. The error names the parts that it could not read; their previous versions
// stay in use. A backend has neither part.
func (p *process) reload() (reloaded []string, err error) {
	if p.edge == nil {
		return nil, nil
	}
	for _, part := range []struct {
		name string
		has  bool
		load func() error
	}{
		{"key sets of issuers", len(p.cfg.Auth.Issuers) > 0, p.edge.auth.Reload},
		{"certificate of the edge", p.edge.cert != nil, p.edge.cert.Load},
	} {
		if !part.has {
			continue
		}
		if one := part.load(); one != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", part.name, one))
			continue
		}
		reloaded = append(reloaded, part.name)
	}
	return reloaded, err
}
