package redis

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	failures  prometheus.Counter
	untrusted *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, m *Membership) *metrics {
	out := &metrics{failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pallium_ring_redis_failures_total", Help: "Failed heartbeats and reads of the ring in Redis."}),
		untrusted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ring_untrusted_entries_total",
			Help: "Distinct values of the ring in Redis that were ignored as untrusted, by reason."}, []string{"reason"})}
	for _, reason := range []string{badSignature, badDecode, badVersion, badHeartbeat, badRemoval} {
		out.untrusted.WithLabelValues(reason)
	}
	members := prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "pallium_ring_ingesters", Help: "Ingesters in the ring as this process sees it."},
		func() float64 {
			if r := m.current.Load(); r != nil {
				return float64(len(r.Instances()))
			}
			return 0
		},
	)
	unhealthy := prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "pallium_ring_unhealthy_ingesters",
			Help: "Ingesters in the ring without a recent heartbeat, or whose entry in Redis is not trusted."},
		func() float64 {
			n := 0
			if r := m.current.Load(); r != nil {
				for _, in := range r.Instances() {
					if in.Unhealthy {
						n++
					}
				}
			}
			return float64(n)
		},
	)
	if reg != nil {
		reg.MustRegister(out.failures, out.untrusted, members, unhealthy)
	}
	return out
}
