// Package integrations builds the notification integrations of a tenant's receivers, over the notifiers
// of Prometheus' Alertmanager. The configurations come from strangers, and so do the servers that are
// notified. Therefore:
//
//   - Every connection is dialled by package egress, after DNS and for each redirect. Integrations
//     whose notifier of Alertmanager dials by itself (email) or reads the environment of the process (sns)
//     have a notifier of this package.
//   - A connection belongs to one attempt to notify: it carries one request and is closed at the latest when
//     the attempt ends. So nothing has to be closed when integrations are dropped, and a
//     server that never ends its answer holds neither memory nor a goroutine.
//   - Templates run in executors that limit them. An executor must not be used by two goroutines at once;
//     each integration keeps a small pool of them, so that groups can notify at the same time.
//   - A configuration that names files, proxies or credentials of the operator is rejected. This is a second line
//     of defence: the package that loads configurations rejects them with better errors.
package integrations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/egress"
)

// Executor executes the templates of one attempt at a time within limits.
type Executor interface {
	// Template is the template that is passed to Alertmanager's notifiers.
	Template() *template.Template
	// Begin starts an attempt with fresh limits.
	Begin(context.Context)
	// Err returns the limit that was exceeded since Begin, or nil.
	Err() error
	// Elapsed returns for how long templates have been executed since Begin.
	Elapsed() time.Duration
}

// Limits bound one integration. A zero field means the default.
type Limits struct {
	Timeout     time.Duration // of an attempt; 30 s
	Response    int64         // bytes that are read in an attempt, from all connections, with TLS and headers; 256 KiB
	Connections int           // connections of an attempt, redirects included; 20
	Concurrent  int           // attempts of an integration at the same time; 8
	Idle        int           // notifiers, with their templates, that all integrations of the tenant keep between attempts; 16
	IdleTime    time.Duration // after which they are dropped: parsed templates are large; 10 min
}

func (l Limits) withDefaults() Limits {
	d := Limits{Timeout: 30 * time.Second, Response: 256 << 10, Connections: 20, Concurrent: 8, Idle: 16, IdleTime: 10 * time.Minute}
	if l.Timeout > 0 {
		d.Timeout = l.Timeout
	}
	if l.Response > 0 {
		d.Response = l.Response
	}
	if l.Connections > 0 {
		d.Connections = l.Connections
	}
	if l.Concurrent > 0 {
		d.Concurrent = l.Concurrent
	}
	if l.Idle > 0 {
		d.Idle = l.Idle
	}
	if l.IdleTime > 0 {
		d.IdleTime = l.IdleTime
	}
	return d
}

// Options are what the integrations of a receiver need.
type Options struct {
	Egress    *egress.Rules
	Templates func() (Executor, error) // makes an executor of the tenant's templates
	Tenant    tenant.ID
	Limiter   *TenantLimiter
	Pace      *pace.Pace // of the CPU time of tenants, which templates take
	Logger    *slog.Logger
	Metrics   *Metrics
	Limits    Limits
	dial      dialFunc // instead of Egress, in tests
}

// dialFunc is the signature of net.Dialer.DialContext.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Build returns the integrations of a receiver, in the order and with the names and indexes of Alertmanager.
// The receiver comes from config.Load, which completes it with the global options and defaults; it must not be
// changed afterwards. All errors of the receiver are returned, joined.
func Build(receiver config.Receiver, o Options) ([]notify.Integration, error) {
	if o.Egress == nil || o.Templates == nil || o.Metrics == nil || o.Logger == nil || o.Limiter == nil || o.Pace == nil {
		return nil, errors.New("building integrations: options Egress, Templates, Limiter, Pace, Metrics and Logger are required")
	}
	if o.dial == nil {
		o.dial = o.Egress.DialContext
	}
	o.Limits = o.Limits.withDefaults()
	o.Logger = o.Logger.With("tenant", string(o.Tenant), "receiver", receiver.Name)

	known, err := kindsOf(receiver)
	if err != nil {
		return nil, err
	}
	var built []notify.Integration
	var errs []error
	for _, k := range known {
		p, err := newPool(k, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("receiver %q: %s[%d]: %w", receiver.Name, k.name, k.index, err))
			continue
		}
		built = append(built, notify.NewIntegration(p, k.resolved, k.name, k.index, receiver.Name))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return built, nil
}
