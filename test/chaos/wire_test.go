package chaos

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// entry contains the samples of one series in a request.
type entry struct {
	labels labels.Labels
	times  []int64
}

// encode encodes the body of a remote write request.
func encode(version int, entries []entry) ([]byte, error) {
	var raw []byte
	var err error
	if version == 1 {
		raw, err = encode1(entries)
	} else {
		raw, err = encode2(entries)
	}
	return snappy.Encode(nil, raw), err
}

func encode1(entries []entry) ([]byte, error) {
	req := prompb.WriteRequest{}
	for _, e := range entries {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(e.labels, nil)}
		key := e.labels.String()
		for _, t := range e.times {
			switch kindOf(e.labels, t) {
			case kindFloat:
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: t, Value: floatOf(key, t)})
			case kindInt:
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(t, histogramOf(key, t)))
			case kindFloatHistogram:
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(t, histogramOf(key, t).ToFloat(nil)))
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
		ts := writev2.TimeSeries{LabelsRefs: st.SymbolizeLabels(e.labels, nil)}
		key := e.labels.String()
		for _, t := range e.times {
			switch kindOf(e.labels, t) {
			case kindFloat:
				ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: t, Value: floatOf(key, t)})
			case kindInt:
				ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(0, t, histogramOf(key, t)))
			case kindFloatHistogram:
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(0, t, histogramOf(key, t).ToFloat(nil)))
			}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = st.Symbols()
	return req.Marshal()
}

// answer is the response to a request; code 0 means that none was received.
type answer struct {
	code    int
	text    string
	written int // samples and histograms
}

// push sends the body of a remote write request. `sent` is the number of samples in the body.
func push(client *http.Client, url, token string, version int, body []byte, sent int) answer {
	req, err := http.NewRequest(http.MethodPost, url+"/api/v1/push", bytes.NewReader(body))
	if err != nil {
		return answer{text: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	if version == 2 {
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{text: err.Error()}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{text: err.Error()}
	}
	a := answer{code: resp.StatusCode, text: string(text)}
	a.written = kit.Written(version, a.code, resp.Header, a.text, sent)
	return a
}

// readAll reads all of a tenant's samples by remote read.
func readAll(p *programs.Pallium, token string) ([]readSeries, error) {
	return readMatching(p, token, time.Now().Add(24*time.Hour).UnixMilli(), &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "__name__", Value: "chaos_.+"})
}

// readMatching reads the samples up to maxt of the series that a matcher selects.
func readMatching(p *programs.Pallium, token string, maxt int64, m *prompb.LabelMatcher) ([]readSeries, error) {
	q := prompb.ReadRequest{Queries: []*prompb.Query{{StartTimestampMs: 0, EndTimestampMs: maxt, Matchers: []*prompb.LabelMatcher{m}}}}
	raw, err := q.Marshal()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, p.Edge+"/prometheus/api/v1/read", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Read-Version", "0.1.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("remote read: %d %s", resp.StatusCode, body)
	}
	if body, err = snappy.Decode(nil, body); err != nil {
		return nil, err
	}
	var out prompb.ReadResponse
	if err := out.Unmarshal(body); err != nil {
		return nil, err
	}
	return convert(out.Results[0]), nil
}

func convert(r *prompb.QueryResult) []readSeries {
	b := labels.NewScratchBuilder(8)
	var all []readSeries
	for _, ts := range r.Timeseries {
		s := readSeries{labels: ts.ToLabels(&b, nil)}
		for _, smp := range ts.Samples {
			s.points = append(s.points, point{t: smp.Timestamp, v: smp.Value})
		}
		for _, h := range ts.Histograms {
			if h.IsFloatHistogram() {
				s.points = append(s.points, point{t: h.Timestamp, fh: h.ToFloatHistogram()})
			} else {
				s.points = append(s.points, point{t: h.Timestamp, h: h.ToIntHistogram()})
			}
		}
		all = append(all, s)
	}
	return all
}

// mustReadAll is readAll for a healthy server.
func mustReadAll(t testing.TB, p *programs.Pallium, token string) []readSeries {
	t.Helper()
	got, err := readAll(p, token)
	if err != nil {
		t.Fatal(err)
	}
	return got
}
