package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/gateway"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/policies/budget"
	budgetredis "github.com/palliumhq/pallium/policies/budget/redis"
	"github.com/palliumhq/pallium/policies/limits"
)

// Role is what a process does.
type Role string

// The roles of a process.
const (
	All     Role = "all"     // gateway and every backend role in one process
	Gateway Role = "gateway" // the edge alone, before another backend
	Backend Role = "backend" // some backend roles, one process of a cluster
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

// App is one process. New builds it, Run serves until its context ends.
type App struct {
	cfg  Config
	opts Options

	registry             *prometheus.Registry
	memory               *memory.Account // of requests
	rowCache, localPages int64           // bytes of the embedded row store's cache, and of the pages of local packs
	store                rows.Store
	control              *control.Control
	auth                 *authn.Authenticator // nil in a backend
	backend              http.Handler         // nil in a gateway
	push                 pushFunc             // nil without a distributor
	edge                 *gateway.Gateway     // nil in a backend
	cert                 *certificate         // of the edge; nil without TLS
	connections          conn.Limits          // of the edge
	trusted              []netip.Prefix       // proxies before the edge
	adminHandler         http.Handler         // of the admin API and the operator's pages
	toBackend            *forwarder           // of a gateway of a cluster; else nil
	admin                *adminListener
	startup              *startup

	ingester  *ingester.Ingester   // nil without the role
	compactor *compactor.Compactor // nil without the role
	longTerm  *store.Store         // nil in a gateway
	lifecycle *lifecycle.Keeper    // of longTerm
	clock     *clock.Guard         // nil in a gateway
	// deleteRecent drops series from what ingesters hold.
	deleteRecent func(context.Context, tenant.ID, schema.Tombstone) error

	// Of a process of a cluster.
	security          *cluster.Member
	signer            signer // nil without a use for it
	redis, cacheRedis goredis.UniversalClient
	members           *ringredis.Membership
	pool              *rpc.Pool
	rpc               *rpc.Server
	remembered        *rememberedLimits
	recovery          *recovery.Recovery
	leaver            *recovery.Leaver // of an ingester

	serving atomic.Bool // requests can be served

	// running ends before the parts are closed, requests when those under way
	// were drained or cut off.
	running, requests   context.Context
	stopRunning, cutOff context.CancelFunc
	background          sync.WaitGroup // what requests started and did not wait for

	closers []closer // in the order of building
	ending  *ending
}

// New builds the process. The admin listener is open from its beginning and tells
// what it is doing. What New opened is closed again if it fails; when ctx ends
// first, it fails soon, within shutdown_timeout.
func New(ctx context.Context, cfg Config, o Options) (*App, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
		if o.Running == nil {
			o.Running = clock.Running()
		}
	}
	if o.Role == Gateway && len(cfg.Upstream.URLs) == 0 {
		return nil, errors.New("upstream.urls is empty: a gateway on its own needs the URL of a Pallium, Mimir, Cortex or Loki to forward to")
	}
	if o.Role == Backend && len(o.Targets) == 0 {
		return nil, errors.New("a backend needs roles: -target=distributor,ingester,compactor,querier, or some of them")
	}
	if o.Role != Gateway && len(cfg.Upstream.URLs) > 0 {
		return nil, errors.New("upstream.urls is set: only `pallium gateway` forwards to another backend; run that, or take upstream out")
	}
	if err := cfg.Store.checkRole(o.Role, cfg.inCluster(o.Env)); err != nil {
		return nil, err
	}
	if err := closeDataDir(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	a := newApp(ctx, cfg, o)
	err := a.bounded(ctx, a.startup.ending, func() error {
		err := a.openAdmin()
		if err == nil {
			err = a.checkAddresses()
		}
		if err == nil {
			err = a.build(ctx)
		}
		if err != nil {
			a.cutOff()
			err = notStarted(ctx, err, a.close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// newApp is a process of which nothing is built yet.
func newApp(ctx context.Context, cfg Config, o Options) *App {
	a := &App{cfg: cfg, opts: o, registry: prometheus.NewRegistry(), ending: newEnding(), startup: newStartup(&o)}
	a.running, a.stopRunning = context.WithCancel(context.WithoutCancel(ctx))
	a.requests, a.cutOff = context.WithCancel(context.WithoutCancel(ctx))
	return a
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pallium_build_info", Help: "Always 1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

func (a *App) build(ctx context.Context) error {
	if err := a.planMemory(); err != nil {
		return err
	}
	if a.opts.Role != All {
		if err := a.buildSecurity(); err != nil {
			return err
		}
		if err := a.openRedis(); err != nil {
			return err
		}
		if a.security != nil {
			a.signer = a.security
		}
	}
	adminToken, err := a.buildControl(ctx)
	if err != nil {
		return err
	}
	a.startup.step("opening the backend")
	switch a.opts.Role {
	case All:
		err = a.buildAll(ctx)
	case Backend:
		err = a.buildTargets(ctx)
	}
	if err != nil {
		return err
	}
	if a.opts.Role != Backend {
		if err := a.buildEdge(); err != nil {
			return err
		}
		if a.opts.Role == Gateway && a.security != nil {
			if a.toBackend, err = a.newForwarder(a.toCluster()); err != nil {
				return err
			}
		}
	}
	a.adminHandler, err = a.buildAdmin(adminToken)
	return err
}

func (a *App) buildEdge() (err error) {
	if a.cfg.TLS.CertFile != "" {
		a.cert = &certificate{files: a.cfg.TLS}
		if err := a.cert.load(); err != nil {
			return err
		}
	}
	if a.trusted, err = a.cfg.Gateway.Trusted(); err == nil {
		a.connections, err = a.cfg.Gateway.Connections.Resolve(conn.OpenFiles())
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	o := gateway.Options{
		Config: a.cfg.Gateway, Auth: a.auth, Tenants: a.control, Backend: a.backend, Memory: edgeMemory{a.memory},
		BackendURLs: a.cfg.Upstream.URLs, WriteURLs: a.cfg.Upstream.WriteURLs,
		Ready: a.ready, Version: a.opts.Version, Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
	}
	if a.security != nil {
		o.Dial = a.dialBackend()
	}
	if a.edge, err = gateway.New(o); err != nil || a.cacheRedis == nil {
		return err
	}
	return a.shareBudgets()
}

// shareBudgets shares tenants' rate limits with the other gateways of the
// cluster until the process ends.
func (a *App) shareBudgets() error {
	id := a.cfg.Cluster.Instance
	if id == "" {
		id = holder()
	}
	sharer := budget.New(budget.Options{
		ID: id, Tenants: a.edge, Gateways: a.cfg.Gateway.Gateways, Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry,
		Exchange: budgetredis.New(a.cacheRedis, "pallium:budget", a.signer,
			budgetredis.Options{Logger: a.opts.Logger, Registerer: a.registry}),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { sharer.Run(ctx) })
	a.closeWorker("exchange of rate budgets", cancel, &done)
	return nil
}

// buildControl opens the row store and the control plane over it, and the
// authenticator. It returns the admin token; a backend has none, and no pepper:
// only edges check keys and carry out what operators ask.
func (a *App) buildControl(ctx context.Context) (adminToken string, err error) {
	dir, env, mayMake := a.cfg.DataDir, a.opts.Env, a.opts.Role == All
	keyless := a.opts.Role == Backend
	var pepper apikey.Pepper
	if !keyless {
		if adminToken, err = a.loadAdminToken(); err != nil {
			return "", err
		}
		text, _, _, err := secret{name: "PALLIUM_KEY_PEPPER", file: "key-pepper", make: mayMake}.load(dir, env)
		if err != nil {
			return "", fmt.Errorf("key pepper: %w", err)
		}
		if pepper, err = apikey.NewPepper([]byte(text)); err != nil {
			return "", err
		}
	}
	a.startup.step("opening the row store")
	if a.store, err = a.openRows(ctx); err != nil {
		return "", err
	}
	if a.opts.wrapRows != nil {
		a.store = a.opts.wrapRows(a.store)
	}
	a.onClose("row store", a.store.Close)
	a.startup.step("reading tenants, keys and policies")
	if a.control, err = control.Open(ctx, control.Options{
		Store: a.store, Pepper: pepper, Keyless: keyless, Defaults: limits.Merge(limits.Default(), a.cfg.Limits),
		Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
	}); err != nil {
		return "", err
	}
	a.control.Start()
	a.onClose("control plane", func() error { a.control.Stop(); return nil })
	if keyless {
		a.remembered = newRememberedLimits(a.running, a.control.Limits, a.limitsWithout, a.opts.Now)
		a.onClose("questions about limits", a.remembered.close)
		return adminToken, nil
	}
	if a.signer == nil && a.cacheRedis != nil {
		if a.signer, err = pepperSigner(pepper); err != nil {
			return "", err
		}
	}
	a.auth, err = authn.New(authn.Options{
		Config: a.cfg.Auth, Keys: a.control, Pepper: pepper, Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry,
	})
	return adminToken, err
}

func (a *App) loadAdminToken() (string, error) {
	token, path, made, err := secret{name: "PALLIUM_ADMIN_TOKEN", file: "admin-token", make: a.opts.Role == All}.load(a.cfg.DataDir, a.opts.Env)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if made {
		a.opts.Logger.Info("admin token made; the pallium command reads it from there", "file", path)
	}
	return token, nil
}

// ready reports whether requests can be served.
func (a *App) ready(ctx context.Context) error {
	if !a.serving.Load() {
		return errNotServing
	}
	if a.members == nil {
		return nil
	}
	if self := a.members.Self(); self.State == ring.Leaving {
		return errors.New("this ingester leaves the cluster")
	}
	if _, err := a.members.Ring(ctx); err != nil {
		return err
	}
	if a.opts.Targets[TargetQuerier] {
		return nil // what reads can be read all the same
	}
	return a.zonesMissing(ctx)
}

var errNotServing = errors.New("starting or stopping")

// Reload reads again what may change while running: the key sets of issuers and
// the edge's certificate. What cannot be read stays as it was.
func (a *App) Reload() error {
	var err error
	if a.auth != nil {
		err = a.auth.Reload()
	}
	if a.cert != nil {
		err = errors.Join(err, a.cert.load())
	}
	return err
}
