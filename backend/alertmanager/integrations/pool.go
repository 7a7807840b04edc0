package integrations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"

	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/egress"
)

// errTimeout is the cause with which the context of an attempt ends after its timeout.
var errTimeout = errors.New("attempt to notify timed out")

// pair is a notifier with its executor of templates and its dialer. It makes one attempt at a time.
type pair struct {
	notifier notify.Notifier
	executor Executor
	dialer   *dialer
}

// pool is the notify.Notifier of one integration. It makes each attempt with a pair that no other attempt uses.
type pool struct {
	kind    kind
	options Options
	logger  *slog.Logger
	secrets secrets
	slots   chan struct{} // semaphore of the attempts in progress

	mu     sync.Mutex
	idle   []*pair
	expiry *time.Timer // timer that drops the idle pairs; nil until the first one
}

// newPool returns the pool of an integration, after checking the configuration. Executors are created when they are needed.
func newPool(k kind, o Options) (*pool, error) {
	found, err := inspect(k.conf)
	if err != nil {
		return nil, err
	}
	p := &pool{kind: k, options: o, secrets: found, slots: make(chan struct{}, o.Limits.Concurrent),
		logger: o.Logger.With("integration", k.name, "index", k.index)}
	// The notifier is built once without templates, to find errors of the configuration.
	if _, err := k.build(nil, p.logger, newDialer(k, o)); err != nil {
		return nil, p.secrets.hide(err)
	}
	return p, nil
}

// Notify makes one attempt. It is safe for concurrent use.
func (p *pool) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	name := p.kind.name
	if err := p.options.Limiter.wait(ctx, name, p.options.Metrics); err != nil {
		return !errors.Is(err, ErrDropped), err
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return true, fmt.Errorf("waiting for one of %d concurrent attempts: %w", cap(p.slots), context.Cause(ctx))
	}
	if p.kind.late {
		select {
		case p.options.Limiter.late <- struct{}{}:
			defer func() { <-p.options.Limiter.late }()
		case <-ctx.Done():
			return true, fmt.Errorf("waiting for one of %d concurrent attempts by %s: %w", maxLate, name, context.Cause(ctx))
		}
	}
	started := time.Now()
	p.options.Metrics.notifications.WithLabelValues(name).Inc()
	retry, err := p.attempt(ctx, alerts)
	p.options.Metrics.latency.WithLabelValues(name).Observe(time.Since(started).Seconds())
	if err != nil {
		p.options.Metrics.failed.WithLabelValues(name, reasonOf(err)).Inc()
		return retry, p.secrets.hide(err)
	}
	return false, nil
}

// attempt notifies with a pair of the pool. The time until the first connection is charged as CPU time of the templates;
// templates that are executed after the response to a first request are charged at the end. An attempt that exceeds a limit
// of the templates is not retried, because another attempt with the same alerts would exceed it, too.
func (p *pool) attempt(ctx context.Context, alerts []*alert.Alert) (retry bool, err error) {
	turn, err := p.options.Pace.Begin(ctx, p.options.Tenant, pace.Notifications)
	if err != nil {
		return !errors.Is(err, pace.ErrTooMuch), err
	}
	defer turn.End()
	w, err := p.take()
	if err != nil {
		return true, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.Limits.Timeout, errTimeout)
	defer cancel()
	a := w.dialer.begin(turn.End)
	defer w.dialer.end(a)
	defer context.AfterFunc(ctx, a.close)()

	w.executor.Begin(ctx)
	retry, err = p.notify(context.WithValue(ctx, targetKey{}, true), w, alerts)
	turn.Total(w.executor.Elapsed())
	if limit := w.executor.Err(); limit != nil && (ctx.Err() == nil || !errors.Is(limit, ctx.Err())) {
		err, retry = fmt.Errorf("executing the templates: %w", limitError{limit}), false
	}
	if errors.Is(err, egress.ErrDenied) || errors.Is(err, errOtherHost) {
		retry = false // a retry within seconds would find the same address
	}
	var panicked panicError
	if !errors.As(err, &panicked) {
		p.put(w)
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return retry, err
}

// notify turns a panic of the notifier into an error: the process also serves other tenants.
func (p *pool) notify(ctx context.Context, w *pair, alerts []*alert.Alert) (retry bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.logger.Error("panic in a notifier", "panic", v, "stack", string(debug.Stack()))
			retry, err = false, panicError{v}
		}
	}()
	return w.notifier.Notify(ctx, alerts...)
}

// take returns an idle pair, or creates one.
func (p *pool) take() (*pair, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		w := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.options.Limiter.drop(1)
		p.mu.Unlock()
		return w, nil
	}
	p.mu.Unlock()
	executor, err := p.options.Templates()
	if err != nil {
		return nil, fmt.Errorf("create a template executor: %w", err)
	}
	w := &pair{executor: executor, dialer: newDialer(p.kind, p.options)}
	if w.notifier, err = p.kind.build(executor.Template(), p.logger, w.dialer); err != nil {
		return nil, err
	}
	return w, nil
}

// put keeps a pair for later attempts, unless the integration has an idle one already or the tenant has too many.
func (p *pool) put(w *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) > 0 || !p.options.Limiter.keep(p.options.Limits.Idle) {
		return
	}
	p.idle = append(p.idle, w)
	if p.expiry == nil {
		p.expiry = time.AfterFunc(p.options.Limits.IdleTime, p.expire)
		return
	}
	p.expiry.Reset(p.options.Limits.IdleTime)
}

// expire drops the idle pairs. They hold no connections.
func (p *pool) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.options.Limiter.drop(len(p.idle))
	p.idle = nil
}
