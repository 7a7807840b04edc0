package kit_test

import (
	"net/http"
	"testing"

	"github.com/palliumhq/pallium/test/kit"
)

func TestWritten(t *testing.T) {
	counts := http.Header{"X-Prometheus-Remote-Write-Samples-Written": {"3"}, "X-Prometheus-Remote-Write-Histograms-Written": {"1"}}
	text := "too old (too_old): 2 samples rejected, first: a\ntoo many (limit): 3 samples rejected"
	for _, tt := range []struct {
		name            string
		version, status int
		header          http.Header
		text            string
		want            int
	}{
		{"2.0", 2, 204, counts, "", 4},
		{"2.0 without counts", 2, 204, http.Header{}, "", 0},
		{"1.0", 1, 204, http.Header{}, "", 10},
		{"1.0 with counts", 1, 204, counts, "", -1},
		{"1.0, a part is rejected", 1, 400, http.Header{}, text, 5},
		{"1.0, all is rejected", 1, 400, http.Header{}, "not protobuf", 0},
		{"1.0, fails", 1, 503, http.Header{}, text, 0},
	} {
		if got := kit.Written(tt.version, tt.status, tt.header, tt.text, 10); got != tt.want {
			t.Errorf("%s: %d written, want %d", tt.name, got, tt.want)
		}
	}
}
