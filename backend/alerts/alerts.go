// Package alerts sends the alerts of rules to Alertmanagers, in the format of their API v2.
//
// It does not use Prometheus' package notifier, which keeps a goroutine and a queue of full capacity for each pair of a sender
// and an Alertmanager, and drops alerts after one failed request. A sender for every tenant would be too costly. The queues of
// this package exist only while they contain alerts. A request that failed is repeated until its alerts have expired, unless
// the Alertmanager rejected it.
package alerts

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/notifier"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
)

// Options configure a Sender.
type Options struct {
	Targets    []*Target
	Capacity   int // maximum number of alerts in a queue; 0 means 10,000
	MaxBytes   int // maximum size of these alerts, in bytes of text; 0 means 16 MiB
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	defaultCapacity = 10_000
	defaultMaxBytes = 16 << 20
)

// Sender has a queue for each tenant and Alertmanager to which alerts are to be sent. It is safe for
// concurrent use.
type Sender struct {
	o       Options
	workers *background.Group
	metrics metrics

	inFlight atomic.Int64 // alerts in requests that have no response yet

	mu     sync.Mutex
	closed bool
	queues map[queueKey]*queue
	idle   chan struct{} // closed when the sender is closed and has no queue
}

type queueKey struct {
	tenant  tenant.ID
	target  *Target
	address string
}

type metrics struct {
	sent, failures prometheus.Counter
	dropped        *prometheus.CounterVec
}

// The reasons for which alerts are dropped.
const (
	reasonFull     = "queue_full"   // the oldest alerts are dropped when new ones do not fit
	reasonExpired  = "expired"      // the Alertmanager was unavailable for too long
	reasonRejected = "rejected"     // the Alertmanager rejected the request
	reasonShutdown = "shutdown"     // the process stopped before they were sent
	reasonAddress  = "no_address"   // the name of the Alertmanager has no address
	reasonNoTarget = "unconfigured" // the tenant has no Alertmanager
)

// New returns a Sender without alerts.
func New(o Options) *Sender {
	if o.Capacity <= 0 {
		o.Capacity = defaultCapacity
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	auto := promauto.With(o.Registerer)
	s := &Sender{o: o, workers: background.New(), queues: map[queueKey]*queue{}, idle: make(chan struct{}), metrics: metrics{
		sent: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_ruler_alerts_sent_total",
			Help: "Alerts that Alertmanagers accepted."}),
		failures: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_ruler_alert_requests_failed_total",
			Help: "Requests to Alertmanagers that failed; they are repeated unless the Alertmanager rejected them."}),
		dropped: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ruler_alerts_dropped_total",
			Help: "Alerts that were not sent, by reason: queue_full, expired, rejected, shutdown, no_address (DNS), or unconfigured " +
				"(the tenant has no Alertmanager)."}, []string{"reason"}),
	}}
	for _, reason := range []string{reasonFull, reasonExpired, reasonRejected, reasonShutdown, reasonAddress, reasonNoTarget} {
		s.metrics.dropped.WithLabelValues(reason)
	}
	promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ruler_alerts_queued",
		Help: "Alerts that are queued for Alertmanagers, or were sent in a request without a response so far."},
		func() float64 { return float64(s.queued()) + float64(s.inFlight.Load()) })
	return s
}

// Send queues alerts for all Alertmanagers of the tenant. A queued alert with the same labels is
// replaced. Send may wait for a look-up of an Alertmanager's name, at most 5 seconds for each.
func (s *Sender) Send(ctx context.Context, id tenant.ID, alerts ...*notifier.Alert) {
	if len(alerts) == 0 {
		return
	}
	targets := targetsOf(s.o.Targets, id)
	if len(targets) == 0 {
		s.drop(reasonNoTarget, len(alerts))
	}
	for _, t := range targets {
		addresses, err := t.addresses(ctx)
		if err != nil {
			s.o.Logger.Warn("could not resolve the address of an Alertmanager", "tenant", id, "alertmanager", t.name, "err", err)
			s.drop(reasonAddress, len(alerts))
		}
		for _, a := range addresses {
			s.enqueue(queueKey{id, t, a}, alerts)
		}
	}
}

func (s *Sender) enqueue(k queueKey, alerts []*notifier.Alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.drop(reasonShutdown, len(alerts))
		return
	}
	q := s.queues[k]
	if q == nil {
		q = newQueue(s.o.Capacity, s.o.MaxBytes)
		s.queues[k] = q
		s.workers.Go(func(ctx context.Context) { s.serve(ctx, k, q) })
	}
	now := s.o.Now()
	for _, a := range alerts {
		s.drop(reasonFull, q.put(item{alert: a, expires: expiry(a, now)}))
	}
}

// resolvedFor is how long a resolved alert waits for an Alertmanager. Prometheus repeats resolved alerts for as long.
const resolvedFor = 15 * time.Minute

// expiry returns the time from which an alert is not sent any more. For an active alert this is its end, because an
// Alertmanager that receives it later would regard it as resolved.
func expiry(a *notifier.Alert, now time.Time) time.Time {
	if a.EndsAt.After(now) {
		return a.EndsAt
	}
	return now.Add(resolvedFor)
}

func (s *Sender) drop(reason string, n int) {
	if n > 0 {
		s.metrics.dropped.WithLabelValues(reason).Add(float64(n))
	}
}

func (s *Sender) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, q := range s.queues {
		n += q.len()
	}
	return n
}

const (
	// The wait after a failed request doubles from firstWait to longestWait.
	firstWait   = time.Second
	longestWait = 30 * time.Second
	batchSize   = 256 // alerts in one request
)

// serve sends the alerts of a queue until it is empty or ctx ends, and then removes the queue.
func (s *Sender) serve(ctx context.Context, k queueKey, q *queue) {
	wait, failing := firstWait, false
	for {
		batch := s.next(k, q)
		if batch == nil {
			return
		}
		s.inFlight.Add(int64(len(batch)))
		err := k.target.send(ctx, k.tenant, k.address, batch)
		s.inFlight.Add(-int64(len(batch)))
		var rejected *rejectedError
		switch {
		case err == nil:
			s.metrics.sent.Add(float64(len(batch)))
			if failing {
				s.o.Logger.Info("the Alertmanager accepts alerts again", "tenant", k.tenant, "alertmanager", k.target.name, "address", k.address)
			}
			wait, failing = firstWait, false
			continue
		case ctx.Err() != nil:
			s.giveUp(k, q, batch)
			return
		case errors.As(err, &rejected):
			s.metrics.failures.Inc()
			s.drop(reasonRejected, len(batch))
			s.o.Logger.Warn("an Alertmanager rejected alerts", "tenant", k.tenant, "alertmanager", k.target.name, "address", k.address,
				"alerts", len(batch), "err", err)
			continue
		}
		s.metrics.failures.Inc()
		if !failing {
			s.o.Logger.Warn("could not send alerts; retrying", "tenant", k.tenant, "alertmanager", k.target.name, "address", k.address, "err", err)
			failing = true
		}
		s.putBack(q, batch)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, longestWait)
	}
}

// next takes a batch from a queue. If the queue is empty, it is removed.
func (s *Sender) next(k queueKey, q *queue) []item {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, expired := q.take(batchSize, s.o.Now())
	s.drop(reasonExpired, expired)
	if len(batch) > 0 {
		return batch
	}
	s.remove(k)
	return nil
}

// remove removes a queue; s.mu must be held.
func (s *Sender) remove(k queueKey) {
	delete(s.queues, k)
	if s.closed && len(s.queues) == 0 {
		close(s.idle)
	}
}

func (s *Sender) putBack(q *queue, batch []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(reasonFull, q.putBack(batch))
}

// giveUp drops a batch and the rest of its queue.
func (s *Sender) giveUp(k queueKey, q *queue, batch []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(batch) + q.len()
	s.drop(reasonShutdown, n)
	s.o.Logger.Warn("alerts were not sent before the process stopped", "tenant", k.tenant, "alertmanager", k.target.name, "alerts", n)
	s.remove(k)
}

// Close accepts no more alerts, and sends those that are queued until ctx ends.
func (s *Sender) Close(ctx context.Context) {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		if len(s.queues) == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
	case <-ctx.Done():
	}
	s.workers.Stop()
}
