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

// Options of a process that are not in the configuration file.
type Options struct {
	Role    Role
	Targets Targets // of a backend
	Version string
	Env     func(string) (string, bool)
	Logger  *slog.Logger
	Now     func() time.Time
	// Running is for how long the process has been running, whatever Now says;
	// nil: the machine's own clock for that, or where Now is set, that.
	Running func() time.Duration

	// Tests put ports that hang in front of the stores.
	wrapRows    func(rows.Store) rows.Store
	wrapObjects func(objects.Store) objects.Store
}

// process is a server: what all roles share, the edge, and the backend roles. open
// builds it, run serves until its context ends.
type process struct {
	cfg     Config
	opts    Options
	targets Targets // its backend roles; all in a process that is all there is

	registry             *prometheus.Registry
	memory               *memory.Account // of requests
	rowCache, localPages int64           // bytes of the embedded row store's cache, and of the pages of local packs
	rows                 rows.Store
	control              *control.Control
	limitsOf             func(tenant.ID) limits.Limits
	admin                *admin.Listener
	surface              admin.Surface // of the admin listener
	startup              *startup

	edge    *edge    // nil in a backend
	backend *backend // nil in a gateway

	// What proves to others that this process belongs to them; nil without others.
	security          *cluster.Member
	signer            signer
	redis, cacheRedis goredis.UniversalClient

	serving atomic.Bool // requests can be served

	// background has what requests started and did not wait for; it ends before the
	// parts are closed, requests when those under way were drained or cut off.
	background *background.Group
	requests   context.Context
	cutOff     context.CancelFunc

	closers []closer // in the order of building
	ending  *ending
}

// open builds a process. The admin listener is open from its beginning and tells what
// it is doing. What was opened is closed again if that fails; when ctx ends first, it
// fails soon, within shutdown_timeout.
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
	if err := closeDataDir(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	p := newProcess(ctx, cfg, o)
	err := p.bounded(ctx, p.startup.ending, func() error {
		err := p.openAdmin()
		if err == nil {
			err = p.checkAddresses()
		}
		if err == nil {
			err = p.build(ctx)
		}
		if err != nil {
			p.cutOff()
			err = notStarted(ctx, err, p.close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// check reports what the role does not work with or without.
func (o *Options) check(cfg *Config) error {
	switch {
	case o.Role == Gateway && len(cfg.Upstream.URLs) == 0:
		return errors.New("upstream.urls is empty: a gateway on its own needs the URL of a Pallium, Mimir, Cortex or Loki to forward to")
	case o.Role == Backend && len(o.Targets) == 0:
		return fmt.Errorf("a backend needs roles: -target=all, or some of %s", roleNames())
	case o.Role != Gateway && len(cfg.Upstream.URLs) > 0:
		return errors.New("upstream.urls is set: only `pallium gateway` forwards to another backend; run that, or take upstream out")
	}
	if o.Role == Backend {
		return o.Targets.check(cfg)
	}
	return cfg.Store.checkRole(o.Role, cfg.inCluster(o.Env))
}

// newProcess is a process of which nothing is built yet.
func newProcess(ctx context.Context, cfg Config, o Options) *process {
	p := &process{cfg: cfg, opts: o, targets: o.Targets, registry: prometheus.NewRegistry(), ending: newEnding(), startup: newStartup(&o),
		background: background.New()}
	switch o.Role {
	case All:
		p.targets = allTargets()
	case Gateway:
		p.targets = nil
	}
	p.requests, p.cutOff = context.WithCancel(context.WithoutCancel(ctx))
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

// openControl opens the row store and the control plane over it. Without a pepper,
// which only edges have, it knows of no keys.
func (p *process) openControl(ctx context.Context, pepper *apikey.Pepper) (err error) {
	p.startup.step("opening the row store")
	if p.rows, err = p.openRows(ctx); err != nil {
		return err
	}
	if p.opts.wrapRows != nil {
		p.rows = p.opts.wrapRows(p.rows)
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
	p.control.Start()
	p.onClose("control plane", func() error { p.control.Stop(); return nil })
	p.limitsOf = p.askLimits
	if p.opts.Role == Backend {
		remembered := control.NewRemembered(p.background.Context(), p.control.Limits, p.limitsWithout, p.opts.Now)
		p.onClose("questions about limits", remembered.Close)
		p.limitsOf = remembered.Limits
	}
	return nil
}

// askLimits returns a tenant's limits for the backend. The edge has let the
// tenant in, so when the store cannot tell, the last ones known hold, or the
// defaults; but for retention, since a tenant that has a longer one would lose
// data by it.
func (p *process) askLimits(id tenant.ID) limits.Limits {
	lim, err := p.control.Limits(context.Background(), id)
	if err != nil {
		return p.limitsWithout(err)
	}
	return lim
}

func (p *process) limitsWithout(err error) limits.Limits {
	lim := limits.Merge(limits.Default(), p.cfg.Limits)
	if !errors.Is(err, tenant.ErrUnknown) {
		lim.Retention = 0
	}
	return lim
}

// ready reports whether requests can be served.
func (p *process) ready(ctx context.Context) error {
	if !p.serving.Load() {
		return errNotServing
	}
	if p.backend == nil || p.backend.cluster == nil {
		return nil
	}
	members := p.backend.cluster.members
	if self := members.Self(); self.State == ring.Leaving {
		return errors.New("this ingester leaves the cluster")
	}
	if _, err := members.Ring(ctx); err != nil {
		return err
	}
	if p.targets[TargetQuerier] {
		return nil // what reads can be read all the same
	}
	return p.impaired(ctx)
}

// impaired is why some role of this process cannot do its work.
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

// reload reads again what may change while running: the key sets of issuers and
// the edge's certificate. What cannot be read stays as it was.
func (p *process) reload() error {
	if p.edge == nil {
		return nil
	}
	return p.edge.reload()
}
