// Package pace divides the CPU time of a process among the Alertmanagers of its tenants. For each kind of work, a tenant's
// Alertmanager does one piece of work at a time, such as deciding which alerts are silenced or executing templates, and uses
// at most a configured number of CPUs on average. A tenant that needs more waits; other tenants do not.
package pace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
)

const (
	// burst determines the CPU time that a tenant may use at once after it was idle: burst times its limit.
	burst = 10 * time.Second
	// least is the minimum that is charged for a piece of work, because the calls of the row store that belong to it take
	// CPU time, too.
	least = 200 * time.Microsecond
)

// Kind is a kind of work. Each kind has CPU time of its own, so that notifications and lists of alerts do not prevent a tenant
// from sending alerts or changing the configuration.
type Kind string

// The kinds.
const (
	Notifications Kind = "notifications"
	Alerts        Kind = "alerts"   // processing of received alerts
	Requests      Kind = "requests" // lists of alerts
	Configuration Kind = "configuration"
)

// ErrTooMuch is wrapped by the error of work that could not begin in time because the tenant has used its CPU time.
var ErrTooMuch = errors.New("the Alertmanager of the tenant needs more CPU time than alertmanager_cpus allows")

// Pace limits the work of tenants. It is safe for concurrent use.
type Pace struct {
	cpus    func(tenant.ID) float64
	worked  *prometheus.CounterVec
	waited  *prometheus.CounterVec
	dropped *prometheus.CounterVec

	mu     sync.Mutex
	shares map[of]*share
	sweep  int // number of shares at which unused shares are removed
}

// of identifies a share by tenant and kind of work.
type of struct {
	tenant tenant.ID
	kind   Kind
}

// share is the state of one tenant and kind of work.
type share struct {
	turn  chan struct{} // semaphore of the work in progress
	users int           // callers that work or wait; guarded by Pace.mu

	mu      sync.Mutex
	balance time.Duration // available CPU time; negative for a debt
	at      time.Time     // time at which the balance was computed
}

// New returns a Pace. The function `cpus` returns the limit of a tenant in CPUs; 0 means no limit.
func New(cpus func(tenant.ID) float64, r prometheus.Registerer) *Pace {
	auto, kinds := promauto.With(r), []string{"kind"}
	p := &Pace{cpus: cpus, shares: map[of]*share{}, sweep: 64,
		worked: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_alertmanager_work_seconds_total",
			Help: "Approximate CPU time that Alertmanagers of tenants used, by kind of work."}, kinds),
		waited: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_alertmanager_work_delay_seconds_total",
			Help: "Time that work waited because its tenant had used up its CPU time (alertmanager_cpus), by kind of work."}, kinds),
		dropped: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_alertmanager_work_dropped_total",
			Help: "Pieces of work that were not done because their tenant had used up its CPU time (alertmanager_cpus), by kind of " +
				"work. Notifications are retried at the next flush of their group."}, kinds),
	}
	for _, k := range []Kind{Notifications, Alerts, Requests, Configuration} { // so that all counters exist from the start
		p.worked.WithLabelValues(string(k))
		p.waited.WithLabelValues(string(k))
		p.dropped.WithLabelValues(string(k))
	}
	return p
}

// Turn is a piece of work that has begun.
type Turn struct {
	pace  *Pace
	share *share
	kind  Kind
	began time.Time
	most  time.Duration // maximum that is charged; 0 for no maximum

	once sync.Once
	took time.Duration
}

// Begin waits until the tenant may work: until its other work of this kind has ended, and until it has CPU time. If it would
// have to wait for CPU time beyond the deadline of the context, Begin returns at once an error that wraps ErrTooMuch. The work
// must consist of computation only, and must be ended with End.
func (p *Pace) Begin(ctx context.Context, t tenant.ID, k Kind) (*Turn, error) {
	cpus := p.cpus(t) // before it is this work's turn, because it may wait for the row store
	s := p.enter(of{t, k})
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		p.leave(s)
		return nil, fmt.Errorf("wait for other work of the tenant's Alertmanager: %w", context.Cause(ctx))
	}
	if err := p.wait(ctx, s, k, cpus); err != nil {
		<-s.turn
		p.leave(s)
		return nil, err
	}
	return &Turn{pace: p, share: s, kind: k, began: time.Now()}, nil
}

// Limit sets the maximum that is charged for the work, because it takes longer on a busy machine.
func (t *Turn) Limit(most time.Duration) { t.most = most }

// End ends the work. Calls after the first one do nothing.
func (t *Turn) End() {
	t.once.Do(func() {
		t.took = max(time.Since(t.began), least)
		if t.most > 0 {
			t.took = min(t.took, max(t.most, least))
		}
		t.share.charge(t.took)
		t.pace.worked.WithLabelValues(string(t.kind)).Add(t.took.Seconds())
		<-t.share.turn
		t.pace.leave(t.share)
	})
}

// Total ends the work. d is the CPU time of the whole work, including work after End. Total charges the part of d that End
// has not charged.
func (t *Turn) Total(d time.Duration) {
	t.End()
	if more := d - t.took; more > 0 {
		t.share.charge(more)
		t.pace.worked.WithLabelValues(string(t.kind)).Add(more.Seconds())
	}
}

// wait waits until the tenant has no debt.
func (p *Pace) wait(ctx context.Context, s *share, k Kind, cpus float64) error {
	debt := s.debt(cpus, time.Now())
	if debt <= 0 {
		return nil
	}
	d := time.Duration(float64(debt) / cpus)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		p.dropped.WithLabelValues(string(k)).Inc()
		return fmt.Errorf("%w (%g on each replica, %s): use simpler templates, fewer groups or a longer group_interval, "+
			"or ask the operator for a higher limit", ErrTooMuch, cpus, k)
	}
	began := time.Now()
	defer func() { p.waited.WithLabelValues(string(k)).Add(time.Since(began).Seconds()) }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for CPU time of the tenant's Alertmanager: %w", context.Cause(ctx))
	}
}

// debt updates the balance, and returns the debt, or 0 or less if there is none.
func (s *share) debt(cpus float64, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := time.Duration(float64(burst) * cpus)
	if cpus <= 0 {
		s.balance, s.at = 0, now
		return 0
	}
	if s.at.IsZero() {
		s.balance = most
	} else {
		s.balance = min(most, s.balance+time.Duration(float64(now.Sub(s.at))*cpus))
	}
	s.at = now
	return -s.balance
}

func (s *share) charge(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.balance -= d
}

// enter returns a share, and prevents its removal until leave.
func (p *Pace) enter(o of) *share {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shares[o]
	if s == nil {
		p.clean()
		s = &share{turn: make(chan struct{}, 1)}
		p.shares[o] = s
	}
	s.users++
	return s
}

func (p *Pace) leave(s *share) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
}

// clean removes shares that are full because they were not used for some time. It does so whenever the number of shares has
// doubled. p.mu must be locked.
func (p *Pace) clean() {
	if len(p.shares) < p.sweep {
		return
	}
	now := time.Now()
	for o, s := range p.shares {
		cpus := p.cpus(o.tenant)
		if s.users == 0 && -s.debt(cpus, now) >= time.Duration(float64(burst)*cpus) {
			delete(p.shares, o)
		}
	}
	p.sweep = max(64, 2*len(p.shares))
}
