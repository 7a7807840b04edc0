package queue

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	jobs, running *prometheus.GaugeVec
	wait          *prometheus.HistogramVec
	workers       prometheus.Gauge
}

// observer is the metrics of one class.
type observer struct {
	jobs, running prometheus.Gauge
	wait          prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) metrics {
	auto := promauto.With(reg)
	return metrics{
		jobs: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pallium_frontend_queue_jobs",
			Help: "Evaluations and other reads that wait for a worker of a querier.",
		}, []string{"class"}),
		running: auto.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pallium_frontend_running_jobs",
			Help: "Evaluations and other reads that occupy workers of queriers.",
		}, []string{"class"}),
		wait: auto.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "pallium_frontend_queue_wait_seconds",
			Help:    "Time that evaluations and other reads waited for a worker of a querier.",
			Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"class"}),
		workers: auto.NewGauge(prometheus.GaugeOpts{
			Name: "pallium_frontend_workers",
			Help: "Workers of all queriers that are connected.",
		}),
	}
}

func (m metrics) class(c Class) observer {
	return observer{
		jobs:    m.jobs.WithLabelValues(c.String()),
		running: m.running.WithLabelValues(c.String()),
		wait:    m.wait.WithLabelValues(c.String()),
	}
}
