package schema

import (
	"fmt"
	"testing"
)

// BenchmarkDecode decodes the names of a pack with 20,000 metrics, and a bucket of label values of a
// Kubernetes-like tenant.
func BenchmarkDecode(b *testing.B) {
	c := testCodec(b)
	var n Names
	for i := range 20_000 {
		n.Metrics = append(n.Metrics, Metric{Name: fmt.Sprintf("application_%03d_http_requests_%04d_total", i/100, i), Series: 100, Pages: 1})
	}
	names := n.Encode(c)
	raw, err := c.open(valueNames, 1, "names", names)
	if err != nil {
		b.Fatal(err)
	}
	tenant := kubernetes(1)
	_, values, _ := tenant.index(b, c)
	largest := values[0]
	for _, v := range values {
		if len(v) > len(largest) {
			largest = v
		}
	}
	b.Run("names", func(b *testing.B) {
		b.SetBytes(int64(len(raw.b)))
		for b.Loop() {
			if _, err := c.DecodeNames(names); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("names-only", func(b *testing.B) { // the cost of decoding only the metric names
		b.SetBytes(int64(len(raw.b)))
		for b.Loop() {
			r, err := c.open(valueNames, 1, "names", names)
			if err != nil {
				b.Fatal(err)
			}
			r.sorted("metric names")
		}
	})
	b.Run("bucket", func(b *testing.B) {
		b.SetBytes(int64(len(largest)))
		for b.Loop() {
			if _, err := c.DecodeBucket(largest); err != nil {
				b.Fatal(err)
			}
		}
	})
}
