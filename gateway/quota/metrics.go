package quota

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
)

// topTenants is the number of tenants with metrics of their own.
const topTenants = 100

// tenantCollector exports the use of the tenants with the most requests. It reads the
// budgets when it is scraped, so that requests do not pay for it.
type tenantCollector struct {
	tenants                            *Tenants
	requests, rejected, samples, bytes *prometheus.Desc
}

// Collector returns a collector of the metrics of the tenants with the most requests.
func (t *Tenants) Collector() prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help+" Only the 100 tenants with the most requests are exported; counters of a tenant are reset "+
			"after it was idle.",
			[]string{"tenant"}, nil)
	}
	return &tenantCollector{
		tenants:  t,
		requests: desc("pallium_gateway_tenant_requests_total", "Authenticated requests of a tenant."),
		rejected: desc("pallium_gateway_tenant_rejected_requests_total", "Requests of a tenant that were rejected because of its limits."),
		samples:  desc("pallium_gateway_tenant_samples_total", "Samples charged to a tenant for its writes, as counted by the backend."),
		bytes:    desc("pallium_gateway_tenant_body_bytes_total", "Bytes of request bodies of a tenant."),
	}
}

// Describe implements prometheus.Collector.
func (c *tenantCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.rejected, c.samples, c.bytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *tenantCollector) Collect(ch chan<- prometheus.Metric) {
	for _, t := range c.tenants.top(topTenants) {
		for _, v := range []struct {
			desc *prometheus.Desc
			n    uint64
		}{{c.requests, t.use.requests}, {c.rejected, t.use.rejected}, {c.samples, t.use.samples}, {c.bytes, t.use.bytes}} {
			ch <- prometheus.MustNewConstMetric(v.desc, prometheus.CounterValue, float64(v.n), string(t.id))
		}
	}
}

type tenantTop struct {
	id  tenant.ID
	use usage
}

// top returns the n tenants with the most requests.
func (t *Tenants) top(n int) []tenantTop {
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
