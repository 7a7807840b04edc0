package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/palliumhq/pallium/test/kit"
)

// client sends requests on behalf of tenants.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{&http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
}

// response is the outcome of a request; code 0 means that no response was received.
type response struct {
	code   int
	header http.Header
	body   []byte
	unsent bool // nothing listened, so the request was not sent
}

func (r response) String() string {
	return fmt.Sprintf("%d %s", r.code, bytes.TrimSpace(r.body[:min(len(r.body), 300)]))
}

// do sends a request; a connection error becomes a response with code 0.
func (c *client) do(ctx context.Context, method, url, token string, body []byte, header ...string) response {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return response{body: []byte(err.Error())}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return response{body: []byte(err.Error()), unsent: errors.Is(err, syscall.ECONNREFUSED)}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return response{body: []byte(err.Error())}
	}
	return response{code: resp.StatusCode, header: resp.Header, body: data}
}

// push sends samples by remote write 1.0 or 2.0. It returns the response and the number
// of written samples that the response states.
func (c *client) push(ctx context.Context, edge, token string, version int, entries []entry) (response, int) {
	raw, err := encode(version, entries)
	if err != nil {
		return response{body: []byte(err.Error())}, 0
	}
	contentType := "application/x-protobuf"
	if version == 2 {
		contentType += ";proto=io.prometheus.write.v2.Request"
	}
	r := c.do(ctx, http.MethodPost, edge+"/api/v1/push", token, snappy.Encode(nil, raw), "Content-Encoding", "snappy", "Content-Type",
		contentType)
	sent := 0
	for _, e := range entries {
		sent += len(e.samples)
	}
	return r, kit.Written(version, r.code, r.header, string(r.body), sent)
}

// entry contains the samples of one series in a request.
type entry struct {
	labels  []prompb.Label
	samples []Sample
}

// entries groups samples by series.
func (t *Tenant) entries(samples []Sample) []entry {
	var out []entry
	for i, s := range samples {
		if i == 0 || samples[i-1].series != s.series {
			out = append(out, entry{labels: prompb.FromLabels(t.series[s.series].labels, nil)})
		}
		e := &out[len(out)-1]
		e.samples = append(e.samples, s)
	}
	return out
}

func encode(version int, entries []entry) ([]byte, error) {
	if version == 2 {
		return encode2(entries)
	}
	req := prompb.WriteRequest{}
	for _, e := range entries {
		ts := prompb.TimeSeries{Labels: e.labels}
		for _, s := range e.samples {
			switch v := s.value; v.kind() {
			case kindHistogram:
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(s.at, v.H))
			case kindFloatHistogram:
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(s.at, v.FH))
			default:
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: s.at, Value: v.V})
			}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	return req.Marshal()
}

func encode2(entries []entry) ([]byte, error) {
	st := writev2.NewSymbolTable()
	req := writev2.Request{}
	for _, e := range entries {
		var ts writev2.TimeSeries
		for _, l := range e.labels {
			ts.LabelsRefs = append(ts.LabelsRefs, st.Symbolize(l.Name), st.Symbolize(l.Value))
		}
		for _, s := range e.samples {
			start := s.at - s.at%60_000 // of a counter; responses do not contain it
			switch v := s.value; v.kind() {
			case kindHistogram:
				ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(start, s.at, v.H))
			case kindFloatHistogram:
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(start, s.at, v.FH))
			default:
				ts.Samples = append(ts.Samples, writev2.Sample{StartTimestamp: start, Timestamp: s.at, Value: v.V})
			}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = st.Symbols()
	return req.Marshal()
}

// stray returns a sample that is always invalid: it is too old, too far in the future, or a
// histogram that contradicts itself. Valid samples are never so old or so far in the future.
func (g *generator) stray(now time.Time) Sample {
	s := Sample{series: g.rnd.Intn(2 * mixes), value: &Value{V: 666}}
	switch g.rnd.Intn(3) {
	case 0:
		s.at = now.Add(-15 * 24 * time.Hour).UnixMilli()
	case 1:
		s.at = now.Add(time.Hour).UnixMilli()
	default:
		s.at = now.UnixMilli() - g.rnd.Int63n(3_600_000)
		s.value = &Value{H: &histogram.Histogram{Count: 9, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{3}}}
	}
	return s
}
