package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestSamplesInFlight checks that many large concurrent writes share one budget.
func TestSamplesInFlight(t *testing.T) {
	for _, length := range []string{"known", "chunked"} {
		eachMode(t, func(t *testing.T, e *edge) {
			e.tenants.set("a", limits.Limits{SamplesPerSecond: 100, SampleBurst: 100})
			const pushes, samples = 60, 5000
			decided, entered := make(chan struct{}), make(chan struct{}, pushes)
			e.backend.answer = func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				entered <- struct{}{}
				<-decided
				w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "5000")
				w.WriteHeader(http.StatusNoContent)
			}
			body, headers := strings.Repeat("x", 30_000), bearer("$A")
			if length == "chunked" {
				body, headers = "7530\r\n"+body+"\r\n0\r\n\r\n", bearer("$A", "Transfer-Encoding: chunked")
			}
			answers := make(chan answer, pushes)
			var wg sync.WaitGroup
			for range pushes {
				wg.Go(func() { answers <- e.do(push, headers, body) })
			}
			// All writes reach the backend or are rejected before the first one ends.
			taken, rejected := 0, 0
			for taken+rejected < pushes {
				select {
				case <-entered:
					taken++
				case a := <-answers:
					rejectedBy(t, a, 429, "samples_per_second", "requests in progress")
					rejected++
				}
			}
			close(decided)
			wg.Wait()
			// One write larger than the burst is admitted when there is no debt.
			if taken != 1 {
				t.Errorf("%s: %d concurrent writes of %d samples were admitted with a burst of 100, want 1", length, taken, samples)
			}
			e.waitIdle()
			e.clock.Advance(50 * time.Second)
			if a := e.do(push, headers, body); a.status != 204 {
				t.Errorf("%s: after the debt is paid: %d %s", length, a.status, a.body)
			}
		})
	}
}
