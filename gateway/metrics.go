package gateway

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	rejections   *prometheus.CounterVec
	authFailures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, g *Gateway) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_requests_total", Help: "Requests that have ended, by route, method and status code.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pallium_gateway_request_duration_seconds", Help: "Time from the request's header to the end of the response, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"route"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_rejected_requests_total",
			Help: "Requests that the gateway itself rejected, or whose client disconnected (client_gone), by reason.",
		}, []string{"reason"}),
		authFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_auth_failures_total", Help: "Credentials that were not accepted, by kind and reason.",
		}, []string{"kind", "reason"}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.requests, m.duration, m.rejections, m.authFailures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_inflight_requests", Help: "Requests that are being processed by the backend.",
		}, func() float64 { return float64(g.gate.Load()) }),
		g.quota.Collector())
	return m
}

func (m *metrics) observe(x *exchange) {
	status := x.rec.status
	if status == 0 {
		status = statusClientGone
	}
	m.requests.WithLabelValues(x.route.Name, methodLabel(x.r.Method), codeLabel(status)).Inc()
	m.duration.WithLabelValues(x.route.Name).Observe(x.g.now().Sub(x.start).Seconds())
	if f := x.rec.rejected; f != nil {
		m.rejections.WithLabelValues(f.reason).Inc()
	}
}

// methodLabel bounds the values of the method label.
func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}
