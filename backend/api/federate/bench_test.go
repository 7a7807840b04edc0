package federate

import (
	"fmt"
	"io"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
)

// BenchmarkWrite writes 100,000 samples of one metric, and reports the memory per sample next to
// the result of Bytes.
func BenchmarkWrite(b *testing.B) {
	const n = 100_000
	for _, kind := range []string{"floats", "histograms"} {
		var list []Sample
		for i := range n {
			s := Sample{Labels: labels.FromStrings("__name__", "http_requests_total", "instance", fmt.Sprintf("host-%d:9100", i), "job", "app", "code", "200",
				"method", "GET"), T: 1_700_000_000_000, V: float64(i)}
			if kind == "histograms" {
				s.H = tsdbutil.GenerateTestFloatHistogram(int64(i))
			}
			list = append(list, s)
		}
		for name, format := range map[string]expfmt.FormatType{"text": expfmt.TypeTextPlain, "protobuf": expfmt.TypeProtoDelim} {
			b.Run(kind+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				bytes := int64(0)
				for range b.N {
					a := NewAnswer(expfmt.NewFormat(format), list)
					bytes = a.Bytes()
					if err := a.Write(io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(bytes)/n, "charged-B/sample")
			})
		}
	}
}
