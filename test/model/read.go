package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// point is a sample of a response, with its value as text.
type point struct {
	t     int64
	value string
	full  *Value // nil for JSON
}

// result is a series of a response.
type result struct {
	labels labels.Labels
	points []point
}

// jsonSeries is a series in the JSON response of a query.
type jsonSeries struct {
	Metric     map[string]string `json:"metric"`
	Value      *jsonPoint        `json:"value"`
	Histogram  *jsonPoint        `json:"histogram"`
	Values     []jsonPoint       `json:"values"`
	Histograms []jsonPoint       `json:"histograms"`
}

// jsonPoint is a sample in the JSON response of a query.
type jsonPoint struct{ point }

// UnmarshalJSON implements json.Unmarshaler.
func (p *jsonPoint) UnmarshalJSON(data []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	var sec float64
	if err := json.Unmarshal(pair[0], &sec); err != nil {
		return err
	}
	p.t = int64(math.Round(sec * 1000))
	var err error
	if pair[1][0] == '"' {
		p.value, err = jsonFloat(pair[1])
	} else {
		p.value, err = jsonHistogram(pair[1])
	}
	return err
}

func jsonFloat(raw json.RawMessage) (string, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", err
	}
	f, err := strconv.ParseFloat(text, 64)
	return formatFloat(f), err
}

func jsonHistogram(raw json.RawMessage) (string, error) {
	var h struct {
		Count, Sum json.RawMessage
		Buckets    [][4]json.RawMessage
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return "", err
	}
	count, err := jsonFloat(h.Count)
	sum, err2 := jsonFloat(h.Sum)
	err = errors.Join(err, err2)
	var b strings.Builder
	fmt.Fprintf(&b, "count:%s sum:%s", count, sum)
	for _, k := range h.Buckets {
		var part [3]string
		for i := range part {
			var e error
			part[i], e = jsonFloat(k[1+i])
			err = errors.Join(err, e)
		}
		fmt.Fprintf(&b, " %s..%s:%s", part[0], part[1], part[2])
	}
	return b.String(), err
}

// decodeQuery decodes a vector or matrix.
func decodeQuery(body []byte) ([]result, error) {
	var a struct {
		Data struct{ Result []jsonSeries }
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	var out []result
	for _, s := range a.Data.Result {
		r := result{labels: labels.FromMap(s.Metric)}
		for _, p := range append(s.Values, s.Histograms...) {
			r.points = append(r.points, p.point)
		}
		for _, p := range []*jsonPoint{s.Value, s.Histogram} {
			if p != nil {
				r.points = append(r.points, p.point)
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// remoteRead reads raw samples, as samples or as chunks.
func (c *client) remoteRead(
	ctx context.Context, edge, token string, chunks bool, mint, maxt int64, matchers []*labels.Matcher,
) (response, []result, error) {
	ms, err := remote.ToLabelMatchers(matchers)
	if err != nil {
		return response{}, nil, err
	}
	q := prompb.ReadRequest{Queries: []*prompb.Query{{StartTimestampMs: mint, EndTimestampMs: maxt, Matchers: ms}}}
	if chunks {
		q.AcceptedResponseTypes = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS}
	}
	raw, err := q.Marshal()
	if err != nil {
		return response{}, nil, err
	}
	r := c.do(ctx, http.MethodPost, edge+"/prometheus/api/v1/read", token, snappy.Encode(nil, raw), "Content-Encoding", "snappy",
		"Content-Type", "application/x-protobuf", "X-Prometheus-Remote-Read-Version", "0.1.0")
	if r.code != http.StatusOK {
		return r, nil, nil
	}
	var out []result
	if chunks {
		out, err = decodeChunks(r.body, mint, maxt)
	} else {
		out, err = decodeSamples(r.body)
	}
	return r, out, err
}

func decodeSamples(body []byte) ([]result, error) {
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		return nil, err
	}
	var resp prompb.ReadResponse
	if err := resp.Unmarshal(raw); err != nil {
		return nil, err
	}
	if len(resp.Results) != 1 {
		return nil, fmt.Errorf("the response has %d results, want 1", len(resp.Results))
	}
	var out []result
	b := labels.NewScratchBuilder(4)
	for _, ts := range resp.Results[0].Timeseries {
		r := result{labels: ts.ToLabels(&b, nil)}
		for _, s := range ts.Samples {
			r.add(s.Timestamp, &Value{V: s.Value})
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				r.add(h.Timestamp, &Value{FH: h.ToFloatHistogram()})
			} else {
				r.add(h.Timestamp, &Value{H: h.ToIntHistogram()})
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (r *result) add(t int64, v *Value) { r.points = append(r.points, point{t, v.text(), v}) }

// decodeChunks decodes streamed chunks. A chunk may have samples outside the range;
// decodeChunks drops them.
func decodeChunks(body []byte, mint, maxt int64) ([]result, error) {
	in := remote.NewChunkedReader(bytes.NewReader(body), 1<<26, nil)
	var out []result
	b := labels.NewScratchBuilder(4)
	for {
		var frame prompb.ChunkedReadResponse
		err := in.NextProto(&frame)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for _, s := range frame.ChunkedSeries {
			ls := s.ToLabels(&b, nil)
			if n := len(out); n == 0 || !labels.Equal(out[n-1].labels, ls) {
				out = append(out, result{labels: ls})
			}
			for _, c := range s.Chunks {
				if err := out[len(out)-1].chunk(c, mint, maxt); err != nil {
					return nil, err
				}
			}
		}
	}
}

func (r *result) chunk(c prompb.Chunk, mint, maxt int64) error {
	chk, err := chunkenc.FromData(chunkenc.Encoding(c.Type), c.Data)
	if err != nil {
		return err
	}
	it := chk.Iterator(nil)
	for {
		var t int64
		v := &Value{}
		switch it.Next() {
		case chunkenc.ValNone:
			return it.Err()
		case chunkenc.ValFloat:
			t, v.V = it.At()
		case chunkenc.ValHistogram:
			t, v.H = it.AtHistogram(nil)
		case chunkenc.ValFloatHistogram:
			t, v.FH = it.AtFloatHistogram(nil)
		}
		if mint <= t && t <= maxt {
			r.add(t, v)
		}
	}
}
