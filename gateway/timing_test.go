package gateway

import (
	"net/http"
	"testing"
)

// TestServerTiming checks that the header Server-Timing of a backend reaches the client unchanged.
func TestServerTiming(t *testing.T) {
	const want = `response_time;dur=1.5, store_reads;desc="2"`
	eachMode(t, func(t *testing.T, e *edge) {
		e.backend.answer = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server-Timing", want) }
		for _, line := range []string{query, query + " HTTP/1.0"} {
			if a := e.do(line, bearer("$A"), ""); a.status != 200 || a.header.Get("Server-Timing") != want {
				t.Errorf("%s: %d, Server-Timing %q, want 200 and %q", line, a.status, a.header.Get("Server-Timing"), want)
			}
		}
	})
}
