// Package compiler compiles the stored configuration of a tenant for its Alertmanager: it checks the configuration, inserts
// the values of secrets, rewrites the templates so that their execution is bounded, and builds the integrations of
// receivers.
package compiler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/alertmanager/expand"
	"github.com/palliumhq/pallium/backend/alertmanager/integrations"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/alertmanager/rehearsal"
	"github.com/palliumhq/pallium/backend/alertmanager/secrets"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/backend/egress"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/policies/limits"
)

// executorIdle is the time for which an integration keeps its executor of templates, which takes 340 KB, after a
// notification.
const executorIdle = time.Minute

// Options configure a Compiler. All fields but Keys must be set.
type Options struct {
	Egress      *egress.Rules
	ExternalURL func(tenant.ID) string // URL of the Alertmanager in templates
	Limits      func(tenant.ID) limits.Limits
	Keys        string // keys of secrets, separated by white space; empty if tenants cannot store secrets
	Logger      *slog.Logger
	Metrics     *integrations.Metrics
	Pace        *pace.Pace
}

// Compiler compiles configurations. It is safe for concurrent use.
type Compiler struct {
	opts Options
	keys *secrets.Keys
	// plain contains Alertmanager's own templates, which take 400 KB. All tenants without template files share it.
	plain *expand.Files

	mu       sync.Mutex
	limiters map[tenant.ID]*shared
}

// shared is the limiter of a tenant, which consecutive configurations share.
type shared struct {
	*integrations.TenantLimiter
	users int
}

// New returns a Compiler, or an error if a key is too short.
func New(o Options) (*Compiler, error) {
	keys, err := secrets.Parse(o.Keys)
	if err != nil {
		return nil, err
	}
	plain, err := expand.Parse(nil)
	if err != nil {
		return nil, err
	}
	return &Compiler{opts: o, keys: keys, plain: plain, limiters: map[tenant.ID]*shared{}}, nil
}

// Seal encrypts a secret. ok is false if there is no key.
func (c *Compiler) Seal(t tenant.ID, name string, value []byte) (sealed []byte, ok bool) {
	if c.keys.Empty() {
		return nil, false
	}
	return c.keys.Seal(t, name, value), true
}

// Check checks a configuration as a tenant sends it, together with the tenant's secrets, and returns warnings.
func (c *Compiler) Check(t tenant.ID, yaml []byte, s index.AlertmanagerSettings) ([]string, error) {
	document, err := tenantconfig.ParseDocument(yaml)
	if err != nil {
		return nil, err
	}
	l := c.opts.Limits(t)
	checked, err := rehearsal.Check(document, rehearsal.Bounds(&l))
	if err != nil {
		return nil, err
	}
	b, err := c.builder(t, checked.Templates)
	if err != nil {
		return nil, err
	}
	if err := checked.Execute(b.files, b.external, t); err != nil {
		return nil, err
	}
	compiled, err := c.resolved(b, checked, s)
	if err != nil {
		return nil, err
	}
	compiled.Close()
	return checked.Warnings, nil
}

// Compile compiles the stored configuration of a tenant, or the fallback if there is none. It does not check the limits of
// its size, which apply when it is stored: lowering a limit later must not end notifications.
func (c *Compiler) Compile(t tenant.ID, s index.AlertmanagerSettings) (*alertmanager.Compiled, error) {
	if !s.Exists {
		return c.Fallback(t)
	}
	document, err := tenantconfig.ParseDocument([]byte(s.Config.YAML))
	if err != nil {
		return nil, err
	}
	checked, err := rehearsal.Check(document, tenantconfig.Limits{})
	if err != nil {
		return nil, err
	}
	plain, err := tenantconfig.Check(document, tenantconfig.Options{})
	if err != nil {
		return nil, err
	}
	b, err := c.builder(t, checked.Templates)
	if err != nil {
		return nil, err
	}
	compiled, err := c.resolved(b, checked, s)
	if err != nil {
		return nil, err
	}
	compiled.Shown = plain.Config
	return compiled, nil
}

// Fallback returns the configuration for tenants that have none.
func (c *Compiler) Fallback(t tenant.ID) (*alertmanager.Compiled, error) {
	b, err := c.builder(t, nil)
	if err != nil {
		return nil, err
	}
	checked := tenantconfig.Fallback()
	compiled, err := b.build(checked.Config)
	if err != nil {
		return nil, err
	}
	compiled.Shown = checked.Config
	return compiled, nil
}

// resolved builds a configuration with the values of its secrets.
func (c *Compiler) resolved(b *builder, checked *rehearsal.Result, s index.AlertmanagerSettings) (*alertmanager.Compiled, error) {
	values := map[string]string{}
	for _, name := range checked.Secrets {
		sealed, ok := s.Secrets[name]
		if !ok {
			continue // the error of Resolve names the secret
		}
		value, err := c.keys.Open(b.tenant, name, sealed)
		if err != nil {
			return nil, err
		}
		values[name] = string(value)
	}
	cfg, err := checked.Resolve(values)
	if err != nil {
		return nil, err
	}
	return b.build(cfg)
}

// builder builds a configuration and its integrations, with the template files of a tenant.
type builder struct {
	*Compiler
	tenant   tenant.ID
	external *url.URL
	files    *expand.Files
}

// builder returns a builder with the rewritten template files of a tenant.
func (c *Compiler) builder(t tenant.ID, templates map[string]string) (*builder, error) {
	external, err := url.Parse(c.opts.ExternalURL(t))
	if err != nil {
		return nil, fmt.Errorf("external URL: %w", err)
	}
	b := &builder{Compiler: c, tenant: t, external: external, files: c.plain}
	if len(templates) > 0 {
		if b.files, err = expand.Parse(templates); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// build builds the receivers to which routes lead, and only checks the others.
func (b *builder) build(cfg *config.Config) (*alertmanager.Compiled, error) {
	functions := rehearsal.Functions(b.tenant)
	executor := func() (integrations.Executor, error) { return b.files.New(b.external, expand.Defaults(), functions) }
	static, err := template.New()
	if err != nil {
		return nil, fmt.Errorf("create templates: %w", err)
	}
	static.ExternalURL = b.external
	used := map[string]bool{}
	dispatch.NewRoute(cfg.Route, nil).Walk(func(r *dispatch.Route) { used[r.RouteOpts.Receiver] = true })
	limiter := b.limiter(b.tenant)
	out := &alertmanager.Compiled{Config: cfg, Integrations: map[string][]notify.Integration{},
		Unused: map[string][]alertmanager.Kind{}, Static: static,
		Admission: func(ctx context.Context, integration string, delayed func(error)) (context.Context, func(context.Context) error) {
			return limiter.Admission(integrations.ReportDelays(ctx, delayed), integration, b.opts.Metrics)
		},
		Refresh: func() { limiter.SetRates(b.rates(b.tenant)) }, Close: sync.OnceFunc(func() { b.release(b.tenant, limiter) })}
	var errs error
	for _, r := range cfg.Receivers {
		list, err := integrations.Build(r, integrations.Options{Egress: b.opts.Egress, Templates: executor, Tenant: b.tenant,
			Limiter: limiter.TenantLimiter, Pace: b.opts.Pace, Logger: b.opts.Logger, Metrics: b.opts.Metrics,
			Limits: integrations.Limits{IdleTime: executorIdle}})
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if used[r.Name] {
			out.Integrations[r.Name] = list
		} else if kinds := alertmanager.KindsOf(list); len(kinds) > 0 {
			out.Unused[r.Name] = kinds
		}
	}
	if errs != nil {
		out.Close()
		return nil, errs
	}
	return out, nil
}

func (c *Compiler) rates(t tenant.ID) integrations.Rates {
	l := c.opts.Limits(t)
	return integrations.Rates{Default: integrations.Rate{PerSecond: l.NotificationsPerSecond, Burst: l.NotificationBurst}}
}

// limiter returns the limiter of a tenant. Each call must be followed by a call of release.
func (c *Compiler) limiter(t tenant.ID) *shared {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.limiters[t]
	if s == nil {
		s = &shared{TenantLimiter: integrations.NewTenantLimiter(c.rates(t))}
		c.limiters[t] = s
	}
	s.users++
	return s
}

func (c *Compiler) release(t tenant.ID, s *shared) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.users--; s.users == 0 && c.limiters[t] == s {
		delete(c.limiters, t)
	}
}
