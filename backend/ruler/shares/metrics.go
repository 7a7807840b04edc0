package shares

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	changes  *prometheus.CounterVec
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer, h *Holder) metrics {
	auto := promauto.With(r)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_ruler_shares_held",
		Help: "Shares of the rule groups that this ruler holds. The sum over all rulers is 256, or 1 in a single process."},
		func() float64 { return float64(h.Held()) })
	return metrics{
		changes: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ruler_share_changes_total",
			Help: "Shares of the rule groups that this ruler gained, released to another ruler, or lost without releasing them."},
			[]string{"change"}),
		failures: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_ruler_share_failures_total",
			Help: "Failed reads and writes of the rows of shares."}),
	}
}
