// Package alertmanager runs an Alertmanager for each tenant, of the packages of Prometheus' Alertmanager. Silences,
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
	// watchInterval is how often the configurations of running tenants are looked at.
	watchInterval = 10 * time.Second
	// idleAfter is after how long without alerts and requests an instance stops.
	idleAfter = 10 * time.Minute
	// cleanInterval is how often expired silences are forgotten. The compactor deletes their rows.
	cleanInterval = time.Hour
	// watchedAtOnce is how many tenants are looked at at the same time.
	watchedAtOnce = 16
	// startTime limits the start of an instance.
	startTime = 10 * time.Second
)

// Store has the rows of Alertmanagers; index.Alertmanagers implements it.
type Store interface {
	silenceStore
	Settings(ctx context.Context, t tenant.ID) (index.AlertmanagerSettings, error)
	SettingsChange(ctx context.Context, t tenant.ID) (uint64, error)
}

// Compiled is a configuration that can run.
type Compiled struct {
	Config       *config.Config                  // with secrets and rewritten templates
	Shown        *config.Config                  // as the tenant wrote it, for the API
	Integrations map[string][]notify.Integration // of receivers to which a route leads
	Unused       map[string][]Kind               // integrations of the other receivers
	Static       *template.Template              // for labels of routes, which have no templates
	// Admission returns a context for one notification by an integration, and a function that waits until the rate of the
	// tenant allows it. Before a wait, also one of a later attempt, delayed is called with a text for the tenant.
	Admission func(ctx context.Context, integration string, delayed func(error)) (context.Context, func(context.Context) error)
	Refresh   func() // applies changed limits
	Close     func() // closes connections
}

// Options configure Alertmanagers. All fields must be set, except for those with a default.
type Options struct {
	Store  Store
	Claims *claims.Claims
	// Compile checks and builds a configuration; Fallback returns that of a tenant without one.
	Compile  func(tenant.ID, index.AlertmanagerSettings) (*Compiled, error)
	Fallback func(tenant.ID) (*Compiled, error)
	Pace     *pace.Pace
	Limits   func(tenant.ID) limits.Limits
	// Position returns the place of this process among the replicas of a tenant, from 0, and a number that is not
	// less than the number of replicas if it is none of them.
	Position func(tenant.ID) int
	// Mine reports whether this process is a replica of a tenant; an error means that this is not known.
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

// slot is the place of a tenant's instance.
type slot struct {
	mu       sync.Mutex // held while it starts or stops
	instance *instance
	dead     bool // it is not in the map any more
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
	a.opts.notify = notify.NewMetrics(prometheus.NewRegistry(), featurecontrol.NoopFlags{}) // package integrations has ours
	return a
}

// get returns the instance of a tenant, which is started if it is not running.
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

// errDead is returned for a slot that was removed meanwhile.
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

// stop stops the instance of a tenant if the condition still holds.
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

// Changed makes the process read the settings of a tenant now, if it runs.
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

// Run follows changes of configurations and of the ring, and stops what is not needed, until the context ends. Then it
// stops everything.
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

// watchAll looks at all tenants, some at a time: one may have to wait.
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

// watch looks at one tenant.
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
	_, _ = in.silences.GC() // has no errors that matter: it is repeated
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
