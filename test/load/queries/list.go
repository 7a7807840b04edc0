package main

import "time"

// panel is a query of a dashboard over a range that ends now.
type panel struct {
	text string
	span time.Duration
}

// step returns Grafana's step for a panel about 1,000 pixels wide.
func (p panel) step() time.Duration {
	switch {
	case p.span <= time.Hour:
		return 15 * time.Second
	case p.span <= 6*time.Hour:
		return 30 * time.Second
	case p.span <= 24*time.Hour:
		return 2 * time.Minute
	case p.span <= 7*24*time.Hour:
		return 10 * time.Minute
	}
	return time.Hour
}

// at returns the query of a panel over the range that ends at the time `end`. As in Grafana, the
// range begins and ends at multiples of the step.
func (p panel) at(end time.Time) rangeQuery {
	end = end.Truncate(p.step())
	return rangeQuery{text: p.text, start: end.Add(-p.span).Truncate(p.step()), end: end, step: p.step()}
}

// texts are typical queries of dashboards.
var texts = []string{
	`sum by (job) (rate(http_requests_total[5m]))`,
	`sum by (namespace, code) (rate(http_requests_total[5m]))`,
	`sum(rate(http_requests_total{code="500"}[5m])) / sum(rate(http_requests_total[5m]))`,
	`sum by (job) (rate(http_requests_total{code="400"}[5m])) / sum by (job) (rate(http_requests_total[5m]))`,
	`histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))`,
	`histogram_quantile(0.9, sum by (job, le) (rate(http_request_duration_seconds_bucket[5m])))`,
	`histogram_quantile(0.99, sum by (job) (rate(rpc_duration_seconds[5m])))`,
	`histogram_count(sum(rate(rpc_duration_seconds[5m])))`,
	`topk(5, sum by (pod) (rate(http_requests_total[5m])))`,
	`avg_over_time(node_load1{namespace="team-1"}[1d])`,
	`sum by (namespace) (container_memory_working_set_bytes)`,
	`max by (pod) (container_memory_working_set_bytes{namespace="team-3"})`,
	`sum(rate(http_requests_total[5m])) / sum(rate(http_requests_total[5m] offset 1h))`,
	`sum by (job) (increase(http_requests_total{namespace="team-2"}[24h]))`,
	`count by (namespace) (node_load1)`,
	`count(count by (pod) (http_requests_total))`,
	`predict_linear(container_memory_working_set_bytes{namespace="team-4"}[1h], 4 * 3600)`,
	`absent(up{job="none"})`,
	`label_replace(sum by (instance) (rate(http_requests_total{namespace="team-5"}[5m])), "host", "$1", "instance", "(.*):.*")`,
	`quantile_over_time(0.95, node_load1{namespace="team-6"}[10m])`,
	`max_over_time(sum(rate(http_requests_total[5m]))[30m:1m])`,
	`sum by (job) (irate(http_requests_total{method="GET"}[5m])) > 100`,
	`http_requests_total{pod="service-1-7f9c6d5b8-00001"}`,
	`avg by (job) (node_load1) / on (job) group_left max by (job) (node_load1)`,
}

// panels returns every query over each of the spans.
func panels(spans ...time.Duration) []panel {
	var out []panel
	for _, span := range spans {
		for _, text := range texts {
			out = append(out, panel{text, span})
		}
	}
	return out
}
