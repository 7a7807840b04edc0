// Package alertmanager runs an Alertmanager for each tenant, built from the packages of Prometheus' Alertmanager. Silences,
// configurations and the notification log are in the row store; alerts are in memory, on all replicas of a tenant.
// docs/alertmanager.md describes it.
package alertmanager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/claims"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// watchInterval is the interval at which the instances of tenants are checked for changes.
	watchInterval = 10 * time.Second
	// idleAfter is the time without alerts and requests after which an instance stops.
	idleAfter = 10 * time.Minute
	// cleanInterval is the interval at which expired silences are removed from memory. The compactor deletes them from
	// the row store.
	cleanInterval = time.Hour
	// watchedAtOnce is the number of tenants that are checked concurrently.
	watchedAtOnce = 16
	// startTime limits the start of an instance.
	startTime = 10 * time.Second
)

// Store reads and writes the rows of Alertmanagers. index.Alertmanagers implements it.
type Store interface {
	silenceStore
	Settings(ctx context.Context, t tenant.ID) (index.AlertmanagerSettings, error)
	SettingsChange(ctx context.Context, t tenant.ID) (uint64, error)
}

// Compiled is a configuration that can run.
type Compiled struct {
	Config       *config.Config                  // with the values of secrets and with rewritten templates
	Shown        *config.Config                  // as the tenant wrote it, for the API
	Integrations map[string][]notify.Integration // by receiver, of receivers to which a route leads
	Unused       map[string][]Kind               // by receiver, of the other receivers
	Static       *template.Template              // for labels of routes, in which templates are not allowed
	// Admission returns a context for one notification by an integration, and a function that waits until the tenant's
	// rate limit allows the notification. Before each wait, also before those of later attempts, it calls `delayed` with
	// an error that describes the delay to the tenant.
	Admission func(ctx context.Context, integration string, delayed func(error)) (context.Context, func(context.Context) error)
	Refresh   func() // applies changed limits
	Close     func() // releases what the configuration holds in the process
}

// Options configure Alertmanagers. All fields must be set, except for those with a default.
type Options struct {
	Store  Store
	Claims *claims.Claims
	// Compile checks and builds a configuration. Fallback returns the configuration of a tenant that has none.
	Compile  func(tenant.ID, index.AlertmanagerSettings) (*Compiled, error)
	Fallback func(tenant.ID) (*Compiled, error)
	Pace     *pace.Pace
	Limits   func(tenant.ID) limits.Limits
	// Position returns the index of this process among the replicas of a tenant. It returns a number that is not less
	// than the number of replicas if the process is not a replica.
	Position func(tenant.ID) int
	// Mine reports whether this process is a replica of a tenant. It returns an error if this is unknown.
	Mine func(context.Context, tenant.ID) (bool, error)
	// Deleted reports whether a tenant was deleted.
	Deleted    func(context.Context, tenant.ID) (bool, error)
	Running    func() time.Duration
	Now        func() time.Time // default time.Now
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	metrics metrics
	notify  *notify.Metrics
}

// Alertmanagers are the Alertmanagers of the tenants on this process. They are safe for concurrent use.
type Alertmanagers struct {
	opts Options

	mu       sync.Mutex
	tenants  map[tenant.ID]*slot
	stopping bool
}

// slot holds the instance of one tenant.
type slot struct {
	mu       sync.Mutex // held while the instance starts or stops
	instance *instance
	dead     bool // the slot was removed from the map
}

// New returns Alertmanagers without tenants.
func New(o Options) *Alertmanagers {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Alertmanagers{opts: o, tenants: map[tenant.ID]*slot{}}
	a.opts.metrics = newMetrics(o.Registerer, a)
	a.opts.notify = notify.NewMetrics(prometheus.NewRegistry(), featurecontrol.NoopFlags{}) // package integrations has Pallium's own metrics
	return a
}

// get returns the instance of a tenant. It starts the instance if it is not running.
func (a *Alertmanagers) get(ctx context.Context, t tenant.ID) (*instance, error) {
	for {
		a.mu.Lock()
		s := a.tenants[t]
		if s == nil {
			s = &slot{}
			a.tenants[t] = s
		}
		a.mu.Unlock()
		in, err := a.getFrom(ctx, t, s)
		if !errors.Is(err, errDead) {
			return in, err
		}
	}
}

// errDead is returned for a slot that was removed in the meantime.
var errDead = errors.New("the tenant's Alertmanager was removed from this process")

func (a *Alertmanagers) getFrom(ctx context.Context, t tenant.ID, s *slot) (*instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.mu.Lock()
	stopping := a.stopping
	a.mu.Unlock()
	switch {
	case stopping:
		return nil, errStopped
	case s.dead:
		return nil, errDead
	}
	if s.instance != nil {
		s.instance.touch()
		return s.instance, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	in, err := newInstance(ctx, &a.opts, t)
	if err != nil {
		return nil, fmt.Errorf("start the Alertmanager of tenant %s: %w", t, err)
	}
	in.touch()
	s.instance = in
	a.opts.metrics.started.Inc()
	return in, nil
}

// list returns the tenants that have a slot.
func (a *Alertmanagers) list() map[tenant.ID]*slot {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[tenant.ID]*slot, len(a.tenants))
	for t, s := range a.tenants {
		out[t] = s
	}
	return out
}

// stop stops the instance of a tenant if the condition is still true.
func (a *Alertmanagers) stop(t tenant.ID, s *slot, condition func(*instance) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instance != nil && !condition(s.instance) {
		return
	}
	if s.instance != nil {
		s.instance.stop()
		s.instance = nil
	}
	s.dead = true
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tenants[t] == s {
		delete(a.tenants, t)
	}
}

// Changed makes the tenant's instance, if it is running, read the settings now.
func (a *Alertmanagers) Changed(ctx context.Context, t tenant.ID) error {
	a.mu.Lock()
	s := a.tenants[t]
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	in := s.instance
	s.mu.Unlock()
	if in == nil {
		return nil
	}
	return in.reload(ctx)
}

// Run regularly applies changed configurations, and stops instances that are no longer needed, until the context ends. Then it
// stops all instances.
func (a *Alertmanagers) Run(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	cleaned := a.opts.Running()
	for {
		select {
		case <-ctx.Done():
			a.stopAll()
			return
		case <-tick.C:
		}
		clean := a.opts.Running()-cleaned >= cleanInterval
		if clean {
			cleaned = a.opts.Running()
		}
		a.watchAll(ctx, clean)
	}
}

// watchAll calls watch for all tenants, for watchedAtOnce of them at a time, because one may have to wait.
func (a *Alertmanagers) watchAll(ctx context.Context, clean bool) {
	var wg sync.WaitGroup
	room := make(chan struct{}, watchedAtOnce)
	for t, s := range a.list() {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			err := a.watch(ctx, t, s, clean)
			switch {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, pace.ErrTooMuch):
				a.opts.Logger.Debug("a tenant's Alertmanager waits for CPU time before it changes its configuration", "tenant", t)
			default:
				a.opts.Logger.Warn("could not follow the changes of a tenant's Alertmanager; retrying", "tenant", t, "err", err)
			}
		})
	}
	wg.Wait()
}

// watch checks one tenant: it stops an instance that is no longer needed, and otherwise applies changed settings. If
// `clean` is set, it also removes expired silences.
func (a *Alertmanagers) watch(ctx context.Context, t tenant.ID, s *slot, clean bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	mine, err := a.opts.Mine(ctx, t)
	if err != nil {
		return err
	}
	gone, err := a.opts.Deleted(ctx, t)
	if err != nil {
		return err
	}
	if gone || !mine {
		a.stop(t, s, func(*instance) bool { return true })
		return nil
	}
	s.mu.Lock()
	in := s.instance
	s.mu.Unlock()
	if in == nil || in.idle(idleAfter) {
		a.stop(t, s, func(in *instance) bool { return in.idle(idleAfter) })
		return nil
	}
	if err := in.reload(ctx); err != nil && !errors.Is(err, errStopped) {
		return err
	}
	in.current.Load().compiled.Refresh()
	in.forget()
	if !clean {
		return nil
	}
	_, _ = in.silences.GC() // errors do not matter, because the call is repeated
	return nil
}

func (a *Alertmanagers) stopAll() {
	a.mu.Lock()
	a.stopping = true
	a.mu.Unlock()
	var wg sync.WaitGroup
	for t, s := range a.list() {
		wg.Go(func() { a.stop(t, s, func(*instance) bool { return true }) })
	}
	wg.Wait()
}
