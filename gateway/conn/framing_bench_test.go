package conn

import (
	"strings"
	"testing"
)

// BenchmarkFraming parses requests as sent by a Prometheus through a proxy, and by a client that
// sends small chunks.
func BenchmarkFraming(b *testing.B) {
	header := "POST /api/v1/push HTTP/1.1\r\nHost: metrics.example.com\r\nUser-Agent: Prometheus/3.16.0\r\n" +
		"Authorization: Bearer plm_0123456789abcdef0123456789abcdef0123456789abcdef\r\nContent-Encoding: snappy\r\n" +
		"Content-Type: application/x-protobuf\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nX-Forwarded-For: 10.1.2.3\r\n"
	for name, request := range map[string]string{
		"length": header + "Content-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000),
		"chunks": header + "Transfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("0a;extension=1\r\n0123456789\r\n", 100) + "0\r\ntrailer: one\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			f, in, out := framing{limit: HeaderBytes}, []byte(request), make([]byte, 0, 2*len(request))
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				out = out[:0]
				for rest := in; len(rest) > 0; {
					n, next, rejection, err := f.step(rest, out)
					if err != nil || rejection != nil {
						b.Fatal(err, rejection)
					}
					rest, out = rest[n:], next
				}
			}
		})
	}
}
