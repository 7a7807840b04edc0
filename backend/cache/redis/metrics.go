package redis

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The results of look-ups and of values to store, in the metrics.
const (
	hit         = "hit"          // the value was decrypted
	absent      = "absent"       // Redis does not have the name
	stored      = "stored"       // Redis acknowledged the value
	invalid     = "invalid"      // the value cannot be decrypted
	timeout     = "timeout"      // no answer in time
	failed      = "error"        // no connection, or the answer is an error or garbage
	circuitOpen = "circuit_open" // Redis was not called, because of earlier failures
	canceled    = "canceled"     // the context of the caller ended
	tooLarge    = "too_large"    // a value, or the values of one call, are too large
	queueFull   = "queue_full"   // too many values wait to be written
	tenantShare = "tenant_share" // too many values of the tenant wait to be written
	closed      = "closed"       // the cache was closed
)

type metrics struct{ lookups, puts *prometheus.CounterVec }

// newMetrics returns the metrics, with a gauge of the bytes in the queue.
func newMetrics(reg prometheus.Registerer, queued func() float64) *metrics {
	auto := promauto.With(reg)
	m := &metrics{
		lookups: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_results_cache_redis_lookups_total",
			Help: "Keys looked up in the results cache in Redis, by result. All but hit are misses; invalid: the value cannot be decrypted.",
		}, []string{"result"}),
		puts: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_results_cache_redis_puts_total",
			Help: "Values to be written to the results cache in Redis, by result. Those with another result than stored were dropped.",
		}, []string{"result"}),
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pallium_results_cache_redis_queue_bytes", Help: "Bytes that wait to be written to the results cache in Redis.",
	}, queued)
	for _, r := range []string{hit, absent, invalid, timeout, failed, circuitOpen, canceled, tooLarge} {
		m.lookups.WithLabelValues(r)
	}
	for _, r := range []string{stored, tooLarge, queueFull, tenantShare, circuitOpen, timeout, failed, closed} {
		m.puts.WithLabelValues(r)
	}
	return m
}

// limitedLog logs at most one line per minute.
type limitedLog struct {
	logger *slog.Logger
	now    func() time.Time

	mu   sync.Mutex
	last time.Time
}

func (l *limitedLog) warn(msg string, args ...any) {
	l.mu.Lock()
	now := l.now()
	quiet := !l.last.IsZero() && now.Sub(l.last) < time.Minute
	if !quiet {
		l.last = now
	}
	l.mu.Unlock()
	if !quiet {
		l.logger.Warn(msg, args...)
	}
}
