package integrations

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/notify"
	"golang.org/x/time/rate"
)

// ErrDropped is wrapped by the error of a notification that the tenant's rate limit did not allow before its deadline.
var ErrDropped = errors.New("notification dropped by the tenant's rate limit")

// Rate is a rate limit of notifications. The zero value means no limit; a negative PerSecond allows no notifications.
type Rate struct {
	PerSecond float64
	Burst     int // values below 1 count as 1
}

// Rates contains the rate limits of a tenant: one for each named type of integration (such as "email"), and a default for the
// others. Each type has a budget of its own, which all receivers of the tenant share.
type Rates struct {
	Default       Rate
	ByIntegration map[string]Rate
}

func (r Rates) of(integration string) Rate {
	if own, ok := r.ByIntegration[integration]; ok {
		return own
	}
	return r.Default
}

// TenantLimiter contains the limiters of one tenant. It outlives the integrations, so that a new configuration does not
// start with full budgets. It is safe for concurrent use.
type TenantLimiter struct {
	mu       sync.Mutex
	rates    Rates
	limiters map[string]*Limiter
	kept     int // number of idle notifiers of all integrations

	late chan struct{} // semaphore of attempts that execute templates after a response
}

// maxLate is the maximum number of concurrent attempts of a tenant that execute templates after a response.
const maxLate = 2

// NewTenantLimiter returns the limiters of a tenant.
func NewTenantLimiter(r Rates) *TenantLimiter {
	return &TenantLimiter{rates: r, limiters: map[string]*Limiter{}, late: make(chan struct{}, maxLate)}
}

// Of returns the limiter of a type of integration.
func (t *TenantLimiter) Of(integration string) *Limiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.limiters[integration]
	if !ok {
		l = newLimiter(integration, t.rates.of(integration))
		t.limiters[integration] = l
	}
	return l
}

// keep reports whether one more idle notifier may be kept, and counts it. drop uncounts n notifiers.
func (t *TenantLimiter) keep(most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept >= most {
		return false
	}
	t.kept++
	return true
}

func (t *TenantLimiter) drop(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept -= n
}

// admission is a value of the context of a notification. `granted` is set from the admission of the notification until its
// first attempt.
type admission struct{ granted atomic.Bool }

type admissionKey struct{}

// Admission returns a context for one notification of an integration, and a function that waits until the rate limit allows
// the notification. The function is called before a replica claims the notification. After it, the first attempt with the
// context does not wait again.
func (t *TenantLimiter) Admission(ctx context.Context, integration string, m *Metrics) (context.Context, func(context.Context) error) {
	a := &admission{}
	return context.WithValue(ctx, admissionKey{}, a), func(ctx context.Context) error {
		if err := t.wait(ctx, integration, m); err != nil {
			return err
		}
		a.granted.Store(true)
		return nil
	}
}

// wait waits until the rate limit of an integration allows one more attempt. It does not wait for the first attempt of a
// notification that was admitted.
func (t *TenantLimiter) wait(ctx context.Context, integration string, m *Metrics) error {
	if a, ok := ctx.Value(admissionKey{}).(*admission); ok && a.granted.Swap(false) {
		return nil
	}
	delayed, err := t.Of(integration).wait(ctx)
	if delayed {
		m.delayed.WithLabelValues(integration).Inc()
	}
	if errors.Is(err, ErrDropped) {
		m.dropped.WithLabelValues(integration).Inc()
	}
	return err
}

// SetRates changes the rate limits. Budgets that were used before remain used.
func (t *TenantLimiter) SetRates(r Rates) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rates = r
	for name, l := range t.limiters {
		l.set(r.of(name))
	}
}

// States returns the states of the limiters, by type of integration. Types that were never used are missing.
func (t *TenantLimiter) States() map[string]State {
	t.mu.Lock()
	defer t.mu.Unlock()
	states := make(map[string]State, len(t.limiters))
	for name, l := range t.limiters {
		states[name] = l.State()
	}
	return states
}

// State is the state of a limiter, to be shown to users of the tenant.
type State struct {
	Waiting          int       // number of notifications that are delayed now
	Delayed, Dropped uint64    // numbers of notifications since the limiter was created
	LastDropped      time.Time // zero if none was dropped
}

// Limiter limits the notifications of one type of integration of a tenant.
type Limiter struct {
	integration string
	bucket      *rate.Limiter

	mu    sync.Mutex
	rate  Rate
	state State
}

func newLimiter(integration string, r Rate) *Limiter {
	l := &Limiter{integration: integration, bucket: rate.NewLimiter(rate.Inf, max(r.Burst, 1))}
	l.set(r)
	return l
}

func (l *Limiter) set(r Rate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = r
	if r.PerSecond > 0 {
		l.bucket.SetBurst(max(r.Burst, 1))
		l.bucket.SetLimit(rate.Limit(r.PerSecond))
	}
}

// State returns the state of the limiter.
func (l *Limiter) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Wait delays the caller until a notification may be sent. If that would be after the deadline of the context, it returns at
// once an error that wraps ErrDropped: the alert group is flushed again after its interval, with newer data. If the context
// is canceled, it returns the cause.
func (l *Limiter) Wait(ctx context.Context) error {
	_, err := l.wait(ctx)
	return err
}

func (l *Limiter) wait(ctx context.Context) (delayed bool, err error) {
	r := l.current()
	if r.PerSecond == 0 {
		return false, nil
	}
	if r.PerSecond < 0 {
		return false, l.drop(r)
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	now := time.Now()
	reserved := l.bucket.ReserveN(now, 1)
	wait := reserved.DelayFrom(now)
	if wait <= 0 {
		return false, nil
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < wait {
		reserved.CancelAt(now)
		return false, l.drop(r)
	}
	l.count(1)
	defer l.count(-1)
	l.reportDelay(ctx, wait, r)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true, nil
	case <-ctx.Done():
		reserved.Cancel()
		return true, fmt.Errorf("waiting for the rate limit of %s notifications: %w", l.integration, context.Cause(ctx))
	}
}

func (l *Limiter) current() Rate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

func (l *Limiter) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Waiting += n
	if n > 0 {
		l.state.Delayed++
	}
}

func (l *Limiter) drop(r Rate) error {
	l.mu.Lock()
	l.state.Dropped++
	l.state.LastDropped = time.Now()
	l.mu.Unlock()
	limit := fmt.Sprintf("%g a second with a burst of %d", r.PerSecond, max(r.Burst, 1))
	if r.PerSecond < 0 {
		limit = "none at all"
	}
	return fmt.Errorf("%w: %w", ErrDropped, notify.NewErrorWithReason(notify.RateLimitedReason, fmt.Errorf(
		"the limit of %s notifications is %s; group more alerts together, or ask the operator for a higher limit", l.integration, limit)))
}
