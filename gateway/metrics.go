package gateway

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
)

// topTenants is how many tenants have metrics of their own.
const topTenants = 100

type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	refusals     *prometheus.CounterVec
	authFailures *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, g *Gateway) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_requests_total", Help: "Requests answered, by route, method and status code.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pallium_gateway_request_duration_seconds", Help: "Time from the header to the end of the answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"route"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_refusals_total", Help: "Requests that the gateway answered itself with an error, by reason.",
		}, []string{"reason"}),
		authFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_gateway_auth_failures_total", Help: "Credentials that were not accepted, by kind and reason.",
		}, []string{"kind", "reason"}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.requests, m.duration, m.refusals, m.authFailures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pallium_gateway_inflight_requests", Help: "Requests at the backend now.",
		}, func() float64 { return float64(g.gate.load()) }),
		newTenantCollector(g.states))
	return m
}

func (m *metrics) observe(x *exchange) {
	status := x.rec.status
	if status == 0 {
		status = statusClientGone
	}
	m.requests.WithLabelValues(x.route.Name, methodLabel(x.r.Method), codeLabel(status)).Inc()
	m.duration.WithLabelValues(x.route.Name).Observe(x.g.now().Sub(x.start).Seconds())
	if f := x.rec.refused; f != nil {
		m.refusals.WithLabelValues(f.reason).Inc()
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

// tenantCollector shows the use of the tenants with most requests. It is read
// from the budgets when asked, so that a request pays nothing for it.
type tenantCollector struct {
	states                            *tenantStates
	requests, refused, samples, bytes *prometheus.Desc
}

func newTenantCollector(s *tenantStates) *tenantCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help+" Only the 100 busiest tenants are shown; counters of a tenant start anew after it was idle.",
			[]string{"tenant"}, nil)
	}
	return &tenantCollector{
		states:   s,
		requests: desc("pallium_gateway_tenant_requests_total", "Authenticated requests of a tenant."),
		refused:  desc("pallium_gateway_tenant_refused_requests_total", "Requests of a tenant refused by its limits."),
		samples:  desc("pallium_gateway_tenant_samples_total", "Samples written by a tenant, as the backend counted them."),
		bytes:    desc("pallium_gateway_tenant_body_bytes_total", "Bytes of request bodies of a tenant."),
	}
}

// Describe implements prometheus.Collector.
func (c *tenantCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.refused, c.samples, c.bytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *tenantCollector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.states.top(topTenants) {
		for _, v := range []struct {
			desc *prometheus.Desc
			n    uint64
		}{{c.requests, t.use.requests}, {c.refused, t.use.refused}, {c.samples, t.use.samples}, {c.bytes, t.use.bytes}} {
			ch <- prometheus.MustNewConstMetric(v.desc, prometheus.CounterValue, float64(v.n), string(t.id))
		}
	}
}

type tenantTop struct {
	id  tenant.ID
	use tenantUse
}

// top returns the n tenants with most requests.
func (t *tenantStates) top(n int) []tenantTop {
	var all []tenantTop
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for id, st := range s.byID {
			st.mu.Lock()
			all = append(all, tenantTop{id, st.use})
			st.mu.Unlock()
		}
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b tenantTop) int {
		return cmp.Or(cmp.Compare(b.use.requests, a.use.requests), cmp.Compare(a.id, b.id))
	})
	return all[:min(n, len(all))]
}
