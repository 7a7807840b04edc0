package remotewrite

import (
	"errors"
	"fmt"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

var errNoMemory = errors.New("no memory")

// budget is a Memory with left bytes.
type budget struct{ left, taken int64 }

func (m *budget) Take(n int64) error {
	if m.left -= n; m.left < 0 {
		return errNoMemory
	}
	m.taken += n
	return nil
}

// manyParts returns a body with n series of two labels, each with the given
// numbers of samples, histograms and exemplars.
func manyParts(t *testing.T, v Version, n, samples, histograms, exemplars int) []byte {
	t.Helper()
	v1, v2 := &prompb.WriteRequest{}, &writev2.Request{Symbols: []string{"", "__name__", "m", "i"}}
	for i := range n {
		text := fmt.Sprintf("instance-%06d", i)
		one := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "i", Value: text}}}
		two := writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3, uint32(len(v2.Symbols))}}
		v2.Symbols = append(v2.Symbols, text)
		for j := range int64(samples) {
			one.Samples = append(one.Samples, prompb.Sample{Timestamp: j + 1, Value: 1})
			two.Samples = append(two.Samples, writev2.Sample{Timestamp: j + 1, Value: 1})
		}
		for j := range int64(histograms) {
			one.Histograms = append(one.Histograms, prompb.Histogram{Timestamp: j + 1, Count: &prompb.Histogram_CountInt{CountInt: 1},
				ZeroCount: &prompb.Histogram_ZeroCountInt{ZeroCountInt: 1}})
			two.Histograms = append(two.Histograms, writev2.Histogram{Timestamp: j + 1, Count: &writev2.Histogram_CountInt{CountInt: 1},
				ZeroCount: &writev2.Histogram_ZeroCountInt{ZeroCountInt: 1}})
		}
		for j := range int64(exemplars) {
			one.Exemplars = append(one.Exemplars, prompb.Exemplar{Timestamp: j + 1})
			two.Exemplars = append(two.Exemplars, writev2.Exemplar{Timestamp: j + 1})
		}
		v1.Timeseries, v2.Timeseries = append(v1.Timeseries, one), append(v2.Timeseries, two)
	}
	body, err := v1.Marshal()
	if v == V2 {
		body, err = v2.Marshal()
	}
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestDecodingTakesMemory checks that decoding takes its memory in advance:
// twice the decompressed size, plus the memory of series and samples. With less
// memory the batch is empty, and the error of the Memory is returned.
func TestDecodingTakesMemory(t *testing.T) {
	const n = 2000
	for _, v := range []Version{V1, V2} {
		for _, tt := range []struct {
			name                           string
			samples, histograms, exemplars int
			decoded                        int64 // of a series, at least
		}{
			{"series", 1, 0, 0, entryBytes + 2*labelBytes + itemBytes},
			{"samples", 50, 0, 0, 50 * itemBytes},
			{"histograms", 0, 20, 0, 20 * itemBytes},
			{"exemplars", 1, 0, 20, 20 * itemBytes},
		} {
			body := manyParts(t, v, n, tt.samples, tt.histograms, tt.exemplars)
			raw := 2 * int64(len(body))
			for _, step := range []struct {
				what   string
				memory int64
				fits   bool
			}{
				{"less than the decompressed size", raw - 1, false},
				{"only the decompressed size", raw + takeStep, false},
				{"half of the decoded parts", raw + n*tt.decoded/2, false},
				{"all", 1 << 40, true},
			} {
				var r Request
				mem := budget{left: step.memory}
				err := r.Decode(v, snappy.Encode(nil, body), 0, &mem)
				if step.fits != (err == nil) || !step.fits && (!errors.Is(err, errNoMemory) || errors.Is(err, ErrMalformed) || len(r.Batch.Entries) > 0) {
					t.Errorf("version %d, %s, memory for %s: error %v, %d series", v, tt.name, step.what, err, len(r.Batch.Entries))
				}
				if want := raw + n*tt.decoded; step.fits && (mem.taken < want || mem.taken > 5*want) {
					t.Errorf("version %d, %s: took %d bytes, want %d to %d", v, tt.name, mem.taken, want, 5*want)
				}
			}
		}
	}
}
