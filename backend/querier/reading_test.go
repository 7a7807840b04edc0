package querier

import (
	"context"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// TestRemoteReadOfOneWideHistogram checks that a remote read charges each
// histogram by its own size, even if one is much larger than the others.
func TestRemoteReadOfOneWideHistogram(t *testing.T) {
	const small, wide = 1000, 16_000
	var samples []series.Sample
	for i := range int64(small) {
		samples = append(samples, series.Sample{T: i, H: custom(3)})
	}
	samples = append(samples, series.Sample{T: small, H: custom(wide)})
	chunks, err := series.Encode(samples)
	if err != nil {
		t.Fatal(err)
	}
	h := memory.NewAccount(1<<40, nil).Begin(memory.Request{Tenant: "t"})
	ctx := ReadRaw(memory.NewContext(context.Background(), h), nil)
	list := []series.WithChunks{{Chunks: chunks}}
	set := &seriesSet{series: list, mint: 0, maxt: small, i: -1, reading: newReading(ctx, nil, list, 0, small)}
	n := 0
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() == chunkenc.ValHistogram {
			it.AtHistogram(nil)
			n++
		}
		if it.Err() != nil {
			t.Fatal(it.Err())
		}
	}
	bytes := int64(wide * 8 * readCopies)
	if n != small+1 || h.Used() < bytes || h.Used() > 10*bytes {
		t.Errorf("%d samples, one of them with %d bounds, take %d bytes, want %d to %d", n, wide, h.Used(), bytes, 10*bytes)
	}
}

func custom(bounds int) *histogram.Histogram {
	h := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 1, Sum: 1, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{1}}
	for i := range bounds {
		h.CustomValues = append(h.CustomValues, float64(i))
	}
	return h
}
