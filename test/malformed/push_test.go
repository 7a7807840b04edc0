package malformed

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

const v2Type = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request"

func body2(req writev2.Request) []byte {
	raw, err := req.Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, raw)
}

// of2 returns a version 2.0 request with one series that has these label references.
func of2(symbols []string, refs ...uint32) []byte {
	return body2(writev2.Request{Symbols: symbols, Timeseries: []writev2.TimeSeries{{LabelsRefs: refs, Samples: []writev2.Sample{{Timestamp: 1, Value: 1}}}}})
}

func hist(t int64, change func(*prompb.Histogram)) []byte {
	h := prompb.FromIntHistogram(t, &histogram.Histogram{
		Schema: 1, Count: 3, ZeroCount: 1, Sum: 3, ZeroThreshold: 0.01,
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []int64{1, 0},
	})
	change(&h)
	ts := float("h", 0, 0)
	ts.Samples, ts.Histograms = nil, []prompb.Histogram{h}
	return body1(ts)
}

func pushRows(b *bench) []row {
	now := b.start.UnixMilli()
	const hour = 3600 * 1000
	ok := body1(float("m", now, 1))
	bomb := binary.AppendUvarint(nil, 1<<31)
	zeros := snappy.Encode(nil, make([]byte, 1<<20))
	rows := []row{
		{name: "nothing", body: []byte{}, code: 400, says: "snappy"},
		{name: "text", body: []byte("hello"), code: 400, says: "snappy"},
		{name: "JSON in snappy", body: snappy.Encode(nil, []byte(`{"a":1}`)), code: 400, says: "malformed"},
		{name: "cut off", body: ok[:len(ok)-3], code: 400, says: "snappy"},
		{name: "a length without data", body: bomb, code: 413, says: "max_decoded_bytes"},
		{name: "an impossible length", body: append(binary.AppendUvarint(nil, 30<<20), 0, 0), code: 400, says: "cannot decompress"},
		{name: "a decompression bomb", key: b.tight, body: zeros, code: 413, says: "1048576|max_decoded_bytes|200000"},
		{name: "a large compressed body", key: b.tight, body: make([]byte, 60000), code: 413, says: "50000"},
		{name: "protobuf cut off", body: snappy.Encode(nil, []byte{0x0a, 0x20, 0x0a}), code: 400, says: "malformed"},
		{name: "protobuf with a wrong type", body: snappy.Encode(nil, []byte{0x0d, 1, 2, 3}), code: 400, says: "malformed"},
		{name: "JSON", headers: "Content-Type: application/json", body: []byte("{}"), code: 415, says: "application/json|application/x-protobuf"},
		{name: "an unknown message", headers: "Content-Type: application/x-protobuf;proto=some.Thing", body: ok, code: 415, says: "some.Thing|io.prometheus.write.v2.Request"},
		{name: "no content type", headers: "Content-Type: ;;", body: ok, code: 415, says: "Content-Type"},
		{name: "gzip", headers: "Content-Encoding: gzip", body: ok, code: 415, says: "gzip|snappy"},
		{name: "zstd", headers: "Content-Encoding: zstd", body: ok, code: 415, says: "zstd|snappy"},

		{name: "no labels", body: body1(float("", now, 1)), code: 400, says: "metric name"},
		{name: "no metric name", body: body1(float("", now, 1, "a", "b")), code: 400, says: "metric name|__name__"},
		{name: "an empty label name", body: body1(float("m", now, 1, "", "b")), code: 400, says: "empty name"},
		{name: "a label twice", body: body1(float("m", now, 1, "a", "b", "a", "c")), code: 400, says: `"a" appears twice`},
		{name: "the metric name twice", body: body1(float("m", now, 1, "__name__", "n")), code: 400, says: "__name__|twice"},
		{name: "a name that is not UTF-8", body: body1(float("m", now, 1, "a\xff", "b")), code: 400, says: "UTF-8"},
		{name: "a value that is not UTF-8", body: body1(float("m", now, 1, "a", "\xfe\xff")), code: 400, says: "UTF-8"},
		{name: "a metric that is not UTF-8", body: body1(float("m\xff", now, 1)), code: 400, says: "UTF-8"},
		{name: "too many labels", key: b.tight, body: body1(float("m", now, 1, "a", "1", "b", "1", "c", "1", "d", "1", "e", "1")), code: 400, says: "max_labels_per_series|5|6"},
		{name: "a long label name", key: b.tight, body: body1(float("m", now, 1, strings.Repeat("n", 51), "1")), code: 400, says: "max_label_name_length|50|51"},
		{name: "a long label value", key: b.tight, body: body1(float("m", now, 1, "n", strings.Repeat("v", 101))), code: 400, says: "max_label_value_length|100|101"},
		{name: "too many series", key: b.tight, body: manySeries(now), code: 400, says: "max_active_series|8"},

		{name: "before 1970", body: body1(float("m", -1, 1)), code: 400, says: "1970"},
		{name: "too old", body: body1(float("m", now-15*24*hour, 1)), code: 400, says: "past_grace|2w"},
		{name: "from the future", body: body1(float("m", now+hour, 1)), code: 400, says: "future_grace|10m|clock"},
		{name: "the largest timestamp", body: body1(float("m", 1<<63-1, 1)), code: 400, says: "after_2261|2261"},
		{name: "the smallest timestamp", body: body1(float("m", -1<<63, 1)), code: 400, says: "1970"},
		{name: "a smaller value at the time", body: body1(float("kept", now, -1)), code: 204},

		{name: "histogram with a wrong count", body: hist(now, func(h *prompb.Histogram) { h.Count = &prompb.Histogram_CountInt{CountInt: 99} }), code: 400, says: "histogram|count"},
		{name: "histogram with negative buckets", body: hist(now, func(h *prompb.Histogram) { h.PositiveDeltas = []int64{-5, 1} }), code: 400, says: "histogram"},
		{name: "histogram with spans only", body: hist(now, func(h *prompb.Histogram) { h.PositiveDeltas = nil }), code: 400, says: "histogram"},
		{name: "histogram with a huge span", body: hist(now, func(h *prompb.Histogram) { h.PositiveSpans[0].Length = 1<<32 - 1 }), code: 400, says: "histogram"},
		{name: "histogram with an unknown schema", body: hist(now, func(h *prompb.Histogram) { h.Schema = 77 }), code: 400, says: "schema"},
		{name: "histogram before 1970", body: hist(-5, func(*prompb.Histogram) {}), code: 400, says: "1970"},
		{name: "too many buckets", key: b.tight, body: hist(now, func(h *prompb.Histogram) {
			h.Schema = -4 // its resolution cannot be reduced
			h.PositiveSpans[0].Length, h.PositiveDeltas = 5, []int64{1, 0, 0, 0, 0}
			h.Count = &prompb.Histogram_CountInt{CountInt: 6}
		}), code: 400, says: "max_histogram_buckets|4|5"},

		{name: "v2: version 1 sent as 2", headers: v2Type, body: ok, code: 400, says: "different versions"},
		{name: "v1: version 2 sent as 1", body: of2([]string{"", "__name__", "m"}, 1, 2), code: 400, says: "different versions"},
		{name: "v2: first symbol not empty", headers: v2Type, body: of2([]string{"__name__", "m"}, 0, 1), code: 400, says: "symbol"},
		{name: "v2: reference beyond the symbols", headers: v2Type, body: of2([]string{"", "__name__", "m"}, 1, 77), code: 400, says: "77|symbol"},
		{name: "v2: a name without a value", headers: v2Type, body: of2([]string{"", "__name__", "m"}, 1, 2, 1), code: 400, says: "without a value"},
		{name: "v2: no labels", headers: v2Type, body: of2([]string{""}), code: 400, says: "metric name"},
	}
	for i := range rows {
		rows[i].url = b.p.Edge + "/api/v1/push"
		if rows[i].key == "" {
			rows[i].key = b.team
		}
		if !strings.Contains(rows[i].headers, "Content-Type") {
			rows[i].headers += "|Content-Type: application/x-protobuf"
		}
		if !strings.Contains(rows[i].headers, "Content-Encoding") {
			rows[i].headers += "|Content-Encoding: snappy"
		}
	}
	return rows
}

func manySeries(now int64) []byte {
	var all []prompb.TimeSeries
	for i := range 20 {
		all = append(all, float("flood", now, 1, "i", fmt.Sprint(i)))
	}
	return body1(all...)
}
