package gateway

import (
	"net/http"
	"strconv"
	"testing"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestWrittenCounts checks that only senders of remote write 2.0 get the counts, which prove that the
// receiver understands 2.0, and that writes of both versions are charged with the counts.
func TestWrittenCounts(t *testing.T) {
	const v2 = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request"
	names := []string{"Samples", "Histograms", "Exemplars"}
	for _, tt := range []struct {
		name, line, contentType string
		counts                  bool
	}{
		{"1.0", push, "Content-Type: application/x-protobuf", false},
		{"1.0 with its message", push, "Content-Type: application/x-protobuf;proto=prometheus.WriteRequest", false},
		{"no type", push, "X-Other: 1", false},
		{"a type that cannot be parsed", push, "Content-Type: ;;io.prometheus.write.v2.Request", false},
		{"2.0", push, v2, true},
		{"2.0, quoted", push, `Content-Type: Application/X-Protobuf; Proto="io.prometheus.write.v2.Request"`, true},
	} {
		for _, status := range []int{204, 400, 503} {
			eachMode(t, func(t *testing.T, e *edge) {
				e.tenants.set("a", limits.Limits{SamplesPerSecond: 1e-9, SampleBurst: 6})
				e.backend.answer = func(w http.ResponseWriter, _ *http.Request) {
					for i, name := range names {
						w.Header().Set("X-Prometheus-Remote-Write-"+name+"-Written", strconv.Itoa(4+i))
					}
					w.WriteHeader(status)
				}
				a := e.do(tt.line, append(bearer("$A"), tt.contentType), "x")
				if a.status != status {
					t.Fatalf("%s: status %d, want %d", tt.name, a.status, status)
				}
				for i, name := range names {
					want := ""
					if tt.counts {
						want = strconv.Itoa(4 + i)
					}
					if got := a.header.Get("X-Prometheus-Remote-Write-" + name + "-Written"); got != want {
						t.Errorf("%s, status %d: %s = %q, want %q", tt.name, status, name, got, want)
					}
				}
				e.waitIdle()
				rejectedBy(t, e.do(push, bearer("$A"), "x"), 429, "samples_per_second", "samples/s", "3 samples were written beyond the budget")
			})
		}
	}
}
