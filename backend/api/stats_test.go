package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestServerTiming checks that the answers of all reads, and errors, say where the time went.
func TestServerTiming(t *testing.T) {
	b := newReading(t, 64<<20)
	for _, err := range []error{nil, errors.New("down")} {
		b.source.set(func(context.Context) error { b.now = b.now.Add(1500 * time.Millisecond); return err })
		for _, c := range allReadRoutes() {
			w := do(b.h, as("acme", c.request(b, "")))
			if h := w.Header().Get("Server-Timing"); !strings.HasPrefix(h, "response_time;dur=") || !strings.Contains(h, ", queue_time;dur=") {
				t.Errorf("%s: %d, Server-Timing %q", c, w.Code, h)
			}
		}
	}
	b.source.set(func(context.Context) error { b.now = b.now.Add(1500 * time.Millisecond); return nil })
	const want = "response_time;dur=1500, queue_time;dur=0, cache_time;dur=0, ingesters_time;dur=0, index_time;dur=0, chunks_time;dur=0, " +
		"engine_time;dur=0, querier_wall_time;dur=1500, store_reads;desc=\"0\", store_bytes;desc=\"0\""
	w := do(b.h, as("acme", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query?query=m", nil)))
	if got := w.Header().Get("Server-Timing"); got != want {
		t.Errorf("Server-Timing %s\nwant          %s", got, want)
	}
}

// TestStats checks that the statistics of a query have Pallium's numbers beside Prometheus' own, and
// that values that Prometheus will reject have its warning.
func TestStats(t *testing.T) {
	b := newReading(t, 64<<20)
	b.source.set(func(context.Context) error { b.now = b.now.Add(time.Second); return nil })
	for _, path := range []string{"query?query=m", "query_range?query=m&start=1&end=2&step=1"} {
		for param, warns := range map[string]bool{"": false, "true": false, "all": false, "1": true} {
			w := do(b.h, as("acme", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+path+"&stats="+param, nil)))
			var got struct {
				Data struct {
					Stats *struct {
						Timings map[string]float64
						Samples map[string]any
						Pallium *struct{ Timings map[string]float64 }
					}
				}
				Warnings []string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			s := got.Data.Stats
			if (param == "") != (s == nil) {
				t.Errorf("%s, stats=%q: %s", path, param, w.Body)
				continue
			}
			if s != nil && (s.Pallium == nil || s.Pallium.Timings["querierWallTime"] != 1 || s.Samples["totalQueryableSamples"] == nil ||
				len(s.Timings) != 6) {
				t.Errorf("%s, stats=%q: %s", path, param, w.Body)
			}
			if warned := strings.Contains(strings.Join(got.Warnings, ""), `"stats" is deprecated`); warned != warns {
				t.Errorf("%s, stats=%q: warnings %q", path, param, got.Warnings)
			}
		}
	}
}
