// Package compiler makes a configuration that a tenant stored into one that an Alertmanager runs: it checks it, puts the
// secrets in, rewrites the templates so that they are bounded, and builds the integrations of its receivers.
package compiler

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
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
	"github.com/palliumhq/pallium/backend/alertmanager/secrets"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/backend/egress"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/policies/limits"
)

// executorIdle is for how long the executor of templates of an integration, which takes 340 KB, is kept after a notification.
const executorIdle = time.Minute

// Options configure a Compiler. All must be set.
type Options struct {
	Egress      *egress.Rules
	ExternalURL func(tenant.ID) string // of the Alertmanager, in templates
	Limits      func(tenant.ID) limits.Limits
	Keys        string // of secrets, one in each line; empty: the tenants have none
	Logger      *slog.Logger
	Metrics     *integrations.Metrics
}

// Compiler compiles configurations. It is safe for concurrent use.
type Compiler struct {
	opts Options
	keys *secrets.Keys
	// plain are the templates of tenants without template files: Alertmanager's own, which take 400 KB.
	plain *expand.Files

	mu       sync.Mutex
	limiters map[tenant.ID]*shared
}

// shared is the limiter of a tenant, which a new configuration takes over from the one before.
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

// options returns the checks of a configuration. Fields are rewritten, and their texts added to texts, unless it is nil;
// template files are rewritten when they are parsed, together.
func options(d tenantconfig.Document, bounds tenantconfig.Limits, texts *[]expand.Text) tenantconfig.Options {
	if texts == nil {
		return tenantconfig.Options{Limits: bounds}
	}
	return tenantconfig.Options{Limits: bounds, Rewrite: func(name, text string) (string, error) {
		if file, ok := d.Templates[name]; ok && file == text {
			return text, nil
		}
		*texts = append(*texts, expand.Text{Name: name, Text: text, HTML: strings.HasSuffix(name, ".html")})
		return expand.Rewrite(name, text)
	}}
}

// Check checks a configuration as a tenant sends it, together with the tenant's secrets, and returns warnings.
func (c *Compiler) Check(t tenant.ID, yaml []byte, s index.AlertmanagerSettings) ([]string, error) {
	s.Exists = true
	s.Config.YAML = string(yaml)
	l := c.opts.Limits(t)
	bounds := tenantconfig.Defaults()
	bounds.ConfigBytes, bounds.Templates, bounds.TemplateBytes = int(l.MaxAlertmanagerConfigBytes), l.MaxAlertmanagerTemplates,
		int(l.MaxAlertmanagerTemplateBytes)
	checked, _, compiled, err := c.compile(t, s, bounds)
	if err != nil {
		return nil, err
	}
	compiled.Close()
	return checked.Warnings, nil
}

// Compile compiles the stored configuration of a tenant, or the fallback if there is none. Limits of its size apply
// only when it is stored: a limit that is lowered later must not end notifications.
func (c *Compiler) Compile(t tenant.ID, s index.AlertmanagerSettings) (*alertmanager.Compiled, error) {
	if !s.Exists {
		return c.Fallback(t)
	}
	_, shown, compiled, err := c.compile(t, s, tenantconfig.Limits{})
	if err != nil {
		return nil, err
	}
	compiled.Shown = shown
	return compiled, nil
}

// Fallback returns the configuration of a tenant that has none. It is never stored.
func (c *Compiler) Fallback(t tenant.ID) (*alertmanager.Compiled, error) {
	checked := tenantconfig.Fallback()
	compiled, err := c.build(t, checked.Config, map[string]string{}, nil)
	if err != nil {
		return nil, err
	}
	compiled.Shown = checked.Config
	return compiled, nil
}

func (c *Compiler) compile(t tenant.ID, s index.AlertmanagerSettings, bounds tenantconfig.Limits,
) (checked *tenantconfig.Checked, shown *config.Config, compiled *alertmanager.Compiled, err error) {
	document, err := tenantconfig.ParseDocument([]byte(s.Config.YAML))
	if err != nil {
		return nil, nil, nil, err
	}
	var texts []expand.Text
	if checked, err = tenantconfig.Check(document, options(document, bounds, &texts)); err != nil {
		return nil, nil, nil, err
	}
	plain, err := tenantconfig.Check(document, options(document, bounds, nil))
	if err != nil {
		return nil, nil, nil, err
	}
	values := map[string]string{}
	for _, name := range checked.Secrets {
		sealed, ok := s.Secrets[name]
		if !ok {
			continue // Resolve names it
		}
		value, err := c.keys.Open(t, name, sealed)
		if err != nil {
			return nil, nil, nil, err
		}
		values[name] = string(value)
	}
	resolved, err := checked.Resolve(values)
	if err != nil {
		return nil, nil, nil, err
	}
	if bounds == (tenantconfig.Limits{}) { // stored: the sample was rendered before
		texts = nil
	} else if texts == nil {
		texts = []expand.Text{}
	}
	compiled, err = c.build(t, resolved, checked.Templates, texts)
	return checked, plain.Config, compiled, err
}

// build builds the receivers that routes use.
func (c *Compiler) build(t tenant.ID, cfg *config.Config, templates map[string]string, texts []expand.Text,
) (*alertmanager.Compiled, error) {
	external, err := url.Parse(c.opts.ExternalURL(t))
	if err != nil {
		return nil, fmt.Errorf("external URL: %w", err)
	}
	files := c.plain
	if len(templates) > 0 {
		if files, err = expand.Parse(templates); err != nil {
			return nil, err
		}
	}
	functions := map[string]any{"tenantID": func() string { return string(t) }}
	if texts != nil {
		if err := expand.Render(files, external, expand.Defaults(), functions, texts); err != nil {
			return nil, err
		}
	}
	executor := func() (integrations.Executor, error) { return files.New(external, expand.Defaults(), functions) }
	static, err := template.New()
	if err != nil {
		return nil, fmt.Errorf("create templates: %w", err)
	}
	static.ExternalURL = external
	used, templated := map[string]bool{}, ""
	dispatch.NewRoute(cfg.Route, nil).Walk(func(r *dispatch.Route) {
		used[r.RouteOpts.Receiver] = true
		for name, value := range r.RouteOpts.Labels {
			if strings.Contains(string(value), "{{") {
				templated = string(name)
			}
		}
	})
	if templated != "" { // the dispatcher would execute it without limits
		return nil, fmt.Errorf("route: label %q: templates in the labels of routes are not supported: use a text", templated)
	}
	limiter := c.limiter(t)
	out := &alertmanager.Compiled{Config: cfg, Integrations: map[string][]notify.Integration{}, Static: static,
		Refresh: func() { limiter.SetRates(c.rates(t)) }}
	out.Close = sync.OnceFunc(func() { c.release(t, limiter) })
	var errs error
	for _, r := range cfg.Receivers {
		list, err := integrations.Build(r, integrations.Options{Egress: c.opts.Egress, Templates: executor, Tenant: t,
			Limiter: limiter.TenantLimiter, Logger: c.opts.Logger, Metrics: c.opts.Metrics, Limits: integrations.Limits{IdleTime: executorIdle}})
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if used[r.Name] {
			out.Integrations[r.Name] = list
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

// limiter returns the limiter of a tenant, which release gives back.
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
