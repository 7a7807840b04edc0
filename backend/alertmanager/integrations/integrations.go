// Package integrations builds the notification integrations of a tenant's receivers from the notifiers of Prometheus'
// Alertmanager. Neither the configurations nor the notified servers are trusted. Therefore:
//
//   - Package egress checks the address of every connection, after DNS and for each redirect. For email and sns, this package
//     has notifiers of its own: Alertmanager's open connections without the check, or read the environment of the process.
//   - A connection belongs to one attempt to notify: it carries one request, and is closed at the latest when the attempt ends.
//     So nothing has to be closed when integrations are dropped, and a server whose response never ends occupies neither
//     memory nor a goroutine.
//   - Templates run in executors that limit them. An executor must not be used by several goroutines at the same time. Each
//     integration has a small pool of executors, so that groups can notify concurrently.
//   - A configuration with files, proxies or credentials of the operator is rejected. This is a second line of defense: the
//     package that loads configurations rejects them with better errors.
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

// Executor executes the templates of one attempt at a time, with limits.
type Executor interface {
	// Template returns the template for Alertmanager's notifiers.
	Template() *template.Template
	// Begin starts an attempt with fresh limits.
	Begin(context.Context)
	// Err returns the limit that was exceeded since Begin, or nil.
	Err() error
	// Elapsed returns the time that the execution of templates has taken since Begin.
	Elapsed() time.Duration
}

// Limits bound one integration. A zero field means the default.
type Limits struct {
	Timeout     time.Duration // of an attempt; default 30 s
	Response    int64         // bytes that an attempt reads from all its connections, including TLS and headers; default 256 KiB
	Connections int           // connections of an attempt, including those for redirects; default 20
	Concurrent  int           // concurrent attempts of an integration; default 8
	Idle        int           // idle notifiers, with their templates, of all integrations of the tenant; default 16
	IdleTime    time.Duration // time after which an idle notifier is dropped, because its templates are large; default 10 min
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

// Options are the options of Build.
type Options struct {
	Egress    *egress.Rules
	Templates func() (Executor, error) // creates an executor of the tenant's templates
	Tenant    tenant.ID
	Limiter   *TenantLimiter
	Pace      *pace.Pace // limits the CPU time that the templates of a tenant take
	Logger    *slog.Logger
	Metrics   *Metrics
	Limits    Limits
	dial      dialFunc // replaces Egress in tests
}

// dialFunc is the signature of net.Dialer.DialContext.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Build returns the integrations of a receiver, in the order and with the names and indexes of Alertmanager. The receiver
// must be a result of config.Load, which adds global options and defaults, and must not be changed afterwards. The error
// joins all errors of the receiver.
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
