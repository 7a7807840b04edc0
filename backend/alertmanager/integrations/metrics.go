package integrations

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics count the attempts to notify of all tenants. They are registered once per process.
type Metrics struct {
	notifications, failed, delayed, dropped *prometheus.CounterVec
	latency                                 *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	auto := promauto.With(reg)
	integration := []string{"integration"}
	return &Metrics{
		notifications: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_alertmanager_notifications_total",
			Help: "Attempts to notify, by integration.",
		}, integration),
		failed: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_alertmanager_notifications_failed_total",
			Help: "Attempts to notify that failed, by integration and reason.",
		}, []string{"integration", "reason"}),
		latency: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pallium_alertmanager_notification_latency_seconds",
			Help:    "Duration of attempts to notify, by integration.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30},
		}, integration),
		delayed: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_alertmanager_notifications_delayed_total",
			Help: "Attempts to notify that waited because of the tenant's rate limit, by integration.",
		}, integration),
		dropped: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_alertmanager_notifications_dropped_total",
			Help: "Notifications that were not sent because the tenant's rate limit did not allow them in time, by integration.",
		}, integration),
	}
}
