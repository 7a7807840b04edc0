package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/ring/local"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/gateway"
	"github.com/palliumhq/pallium/policies/limits"
)

// Role is what a process does.
type Role string

// The roles that exist so far.
const (
	All     Role = "all"     // gateway and every backend role in one process
	Gateway Role = "gateway" // the edge alone, before another backend
)

// Options of a process that are not in the configuration file.
type Options struct {
	Role    Role
	Version string
	Env     func(string) (string, bool)
	Logger  *slog.Logger
	Now     func() time.Time
}

// App is one process. New builds it, Run serves until its context ends.
type App struct {
	cfg  Config
	opts Options

	registry *prometheus.Registry
	store    rows.Store
	control  *control.Control
	auth     *authn.Authenticator
	ingester *ingester.Ingester // nil in a gateway
	ring     *ring.Ring         // nil in a gateway
	backend  http.Handler       // nil in a gateway
	push     pushFunc
	edge     *gateway.Gateway
	cert     *certificate // of the edge; nil without TLS
	admin    http.Handler

	longTerm   *store.Store         // nil in a gateway
	compactor  *compactor.Compactor // nil in a gateway
	running    context.Context      // ends before the parts are closed
	background sync.WaitGroup       // what requests started and did not wait for

	closers []func() error // in the order of building
}

// New builds the process. What it opened is closed again if it fails.
func New(ctx context.Context, cfg Config, o Options) (*App, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Role == Gateway && len(cfg.Upstream.URLs) == 0 {
		return nil, errors.New("upstream.urls is empty: a gateway on its own needs the URL of a Pallium, Mimir, Cortex or Loki to forward to")
	}
	if o.Role != Gateway && len(cfg.Upstream.URLs) > 0 {
		return nil, errors.New("upstream.urls is set: only `pallium gateway` forwards to another backend; run that, or take upstream out")
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	a := &App{cfg: cfg, opts: o, registry: prometheus.NewRegistry()}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	a.running = running
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(o.Version))
	a.closers = append(a.closers, func() error { stop(); a.background.Wait(); return nil })
	if err := a.build(ctx); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pallium_build_info", Help: "Always 1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	g.Set(1)
	return g
}

func (a *App) build(ctx context.Context) error {
	adminToken, err := a.buildControl(ctx)
	if err != nil {
		return err
	}
	if a.opts.Role == All {
		if err := a.buildBackend(ctx); err != nil {
			return err
		}
	}
	if a.cfg.TLS.CertFile != "" {
		a.cert = &certificate{files: a.cfg.TLS}
		if err := a.cert.load(); err != nil {
			return err
		}
	}
	if a.edge, err = gateway.New(gateway.Options{
		Config: a.cfg.Gateway, Auth: a.auth, Tenants: a.control, Backend: a.backend, BackendURLs: a.cfg.Upstream.URLs,
		Ready: a.ready, Version: a.opts.Version, Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
	}); err != nil {
		return err
	}
	a.admin, err = a.buildAdmin(adminToken)
	return err
}

// buildControl opens the row store and the control plane over it, and the
// authenticator. It returns the admin token.
func (a *App) buildControl(ctx context.Context) (string, error) {
	dir, env, mayMake := a.cfg.DataDir, a.opts.Env, a.opts.Role == All
	adminToken, path, made, err := secret{name: "PALLIUM_ADMIN_TOKEN", file: "admin-token", make: mayMake}.load(dir, env)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if made {
		a.opts.Logger.Info("admin token made; the pallium command reads it from there", "file", path)
	}
	pepperText, _, _, err := secret{name: "PALLIUM_KEY_PEPPER", file: "key-pepper", make: mayMake}.load(dir, env)
	if err != nil {
		return "", fmt.Errorf("key pepper: %w", err)
	}
	pepper, err := apikey.NewPepper([]byte(pepperText))
	if err != nil {
		return "", err
	}
	if a.store, err = a.openRows(ctx); err != nil {
		return "", err
	}
	a.closers = append(a.closers, a.store.Close)
	if a.control, err = control.Open(ctx, control.Options{
		Store: a.store, Pepper: pepper, Defaults: limits.Merge(limits.Default(), a.cfg.Limits),
		Logger: a.opts.Logger, Registerer: a.registry, Now: a.opts.Now,
	}); err != nil {
		return "", err
	}
	a.control.Start()
	a.closers = append(a.closers, func() error { a.control.Stop(); return nil })
	a.auth, err = authn.New(authn.Options{Config: a.cfg.Auth, Keys: a.control, Pepper: pepper, Now: a.opts.Now})
	return adminToken, err
}

// limitsOf returns a tenant's limits for the backend. The edge has let the
// tenant in, so when the store cannot tell, the defaults hold; but for
// retention, since a tenant that has a longer one would lose data by it.
func (a *App) limitsOf(id tenant.ID) limits.Limits {
	lim, err := a.control.Limits(context.Background(), id)
	if err == nil {
		return lim
	}
	lim = limits.Merge(limits.Default(), a.cfg.Limits)
	if !errors.Is(err, tenant.ErrUnknown) {
		lim.Retention = 0
	}
	return lim
}

// buildBackend builds every backend role, wired by plain calls.
func (a *App) buildBackend(ctx context.Context) error {
	const id = "ingester-1"
	memory := a.cfg.Ingester.MemoryBytes
	if memory == 0 {
		memory = memoryBudget()
	}
	if err := a.buildStore(ctx); err != nil {
		return err
	}
	ing, err := ingester.Open(ingester.Options{
		ID: id, LongTerm: a.longTerm, Dir: filepath.Join(a.cfg.DataDir, "ingester"), Limits: a.limitsOf, Replication: 1, MemoryBytes: memory,
		Now: a.opts.Now, Logger: a.opts.Logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.ingester = ing
	a.closers = append(a.closers, ing.Close)
	a.buildCompactor(id)
	members := local.New(id)
	if a.ring, err = members.Ring(context.Background()); err != nil {
		return err
	}
	dist := distributor.New(distributor.Options{
		Ring: members, Replication: 1, Limits: a.limitsOf, Now: a.opts.Now, Registerer: a.registry,
		Ingester: func(*ring.Instance) (distributor.Ingester, error) { return ing, nil },
	})
	a.push = dist.Push
	syntax := parser.Options{EnableExperimentalFunctions: a.cfg.Querier.ExperimentalFunctions}
	a.backend = api.New(api.Options{
		Push: dist.Push, Queryable: querier.NewQueryable(querier.Both(ing, a.longTerm), a.limitsOf, a.opts.Now, a.opts.Logger),
		Engine: querier.NewEngine(a.limitsOf, querier.NewParser(syntax, querier.MaxOperators), a.opts.Logger, a.registry),
		Parser: querier.NewParser(syntax, querier.MaxPrettyOperators),
		Delete: a.deleteSeries, Metadata: a.metadata, SeriesCount: ing.SeriesCount, Limits: a.limitsOf,
		Lookback: querier.LookbackDelta, Logger: a.opts.Logger, Registerer: a.registry,
	})
	return nil
}

// ready reports whether requests can be served.
func (a *App) ready(context.Context) error { return nil }

// close closes what was opened, last first.
func (a *App) close() error {
	var errs error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = errors.Join(errs, a.closers[i]())
	}
	a.closers = nil
	return errs
}

// Reload reads again what may change while running: the key sets of issuers and
// the edge's certificate. What cannot be read stays as it was.
func (a *App) Reload() error {
	err := a.auth.Reload()
	if a.cert != nil {
		err = errors.Join(err, a.cert.load())
	}
	return err
}
