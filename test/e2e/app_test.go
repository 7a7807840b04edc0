package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// startApp serves the metrics of an application with features that Prometheus' and
// node_exporter's metrics lack: exemplars, native histograms, UTF-8 names, and a
// series that comes and goes. Each scrape changes the values. It returns the address.
func startApp(t *testing.T) string {
	t.Helper()
	reg := prometheus.NewRegistry()
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "app_requests_total", Help: "Requests \"served\"\nby code."}, []string{"code"})
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "app_latency_seconds", Help: "Latency.",
		Buckets: []float64{0.01, 0.1, 0.5, 1}, NativeHistogramBucketFactor: 1.1})
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "app_size_bytes", Help: "Sizes.", NativeHistogramBucketFactor: 1.1})
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "app_queue_seconds", Help: "Time in the queue.",
		Objectives: map[float64]float64{0.5: 0.05, 0.99: 0.001}})
	utf8 := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "app.temperature", Help: "A name with a dot."}, []string{"site.name"})
	flapping := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "app_flapping", Help: "Comes and goes."}, []string{"n"})
	reg.MustRegister(requests, latency, native, summary, utf8, flapping)

	var count atomic.Int64
	metrics := promhttp.HandlerFor(reg, promhttp.HandlerOpts{EnableOpenMetrics: true})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := count.Add(1)
		trace := prometheus.Labels{"trace_id": strings.Repeat("a", 8) + string(rune('a'+n%26))}
		requests.WithLabelValues("200").(prometheus.ExemplarAdder).AddWithExemplar(float64(n%7), trace)
		requests.WithLabelValues("500").Add(float64(n % 2))
		latency.(prometheus.ExemplarObserver).ObserveWithExemplar(float64(n%13)/10, trace)
		native.Observe(float64(n*n%1000) + 0.5)
		summary.Observe(float64(n%10) / 10)
		utf8.WithLabelValues("Köln").Set(float64(n))
		if flapping.Reset(); n%4 < 2 {
			flapping.WithLabelValues("1").Set(float64(n))
		}
		metrics.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}
