package alertmanager

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	started         prometheus.Counter
	invalid         prometheus.Counter
	refreshFailures prometheus.Counter
}

func newMetrics(r prometheus.Registerer, a *Alertmanagers) metrics {
	auto := promauto.With(r)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_alertmanager_tenants",
		Help: "Tenants whose Alertmanager runs on this process."}, func() float64 { return float64(len(a.list())) })
	return metrics{
		started: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_starts_total",
			Help: "Alertmanagers of tenants that were started."}),
		invalid: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_invalid_configurations_total",
			Help: "Stored configurations that are not valid: the previous one keeps running or, if there is none, no notifications are sent."}),
		refreshFailures: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_alertmanager_silence_refresh_failures_total",
			Help: "Notifications for which the current silences could not be read from the row store: the silences in memory were applied."}),
	}
}
