package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
)

// protocol is a version of remote write.
type protocol string

const (
	v1 protocol = "1.0"
	v2 protocol = "2.0"
)

// loader is the storage that promqltest loads data into: samples are remote-written to
// a tenant of Pallium, and appended to the local storage of the reference engines.
type loader struct {
	storage.Storage // local storage
	url, token      string
	protocol        protocol
}

// Close does nothing: promqltest closes the storage after each command, but later
// commands use it.
func (l *loader) Close() error { return nil }

// AppenderV2 implements storage.AppendableV2.
func (l *loader) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &appender{AppenderV2: l.Storage.AppenderV2(ctx), to: l, index: map[uint64]int{}}
}

type appender struct {
	storage.AppenderV2
	to     *loader
	series []written
	index  map[uint64]int // by hash of the labels
}

type written struct {
	labels  labels.Labels
	samples []sample
}

type sample struct {
	st, t int64
	v     float64
	h     *histogram.FloatHistogram
}

// Append implements storage.AppenderV2.
func (a *appender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AppendV2Options) (storage.SeriesRef, error) {
	if h != nil {
		return 0, fmt.Errorf("unexpected integer histogram in series %s: the scripts load only float histograms", ls)
	}
	i, ok := a.index[ls.Hash()]
	if !ok {
		i = len(a.series)
		a.index[ls.Hash()] = i
		a.series = append(a.series, written{labels: ls})
	}
	a.series[i].samples = append(a.series[i].samples, sample{st: st, t: t, v: v, h: fh})
	return a.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
}

// Commit implements storage.AppenderTransaction.
func (a *appender) Commit() error {
	if err := a.AppenderV2.Commit(); err != nil {
		return fmt.Errorf("local storage: %w", err)
	}
	if len(a.series) == 0 {
		return nil
	}
	return a.to.write(a.series)
}

func (l *loader) write(series []written) error {
	encode, contentType, version := encodeV1, "application/x-protobuf", "0.1.0"
	if l.protocol == v2 {
		encode, contentType, version = encodeV2, "application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"
	}
	body, err := encode(series)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, l.url+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.token)
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("X-Prometheus-Remote-Write-Version", version)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		var text bytes.Buffer
		_, _ = text.ReadFrom(resp.Body)
		return fmt.Errorf("remote write %s: %d %s", l.protocol, resp.StatusCode, text.String())
	}
	return nil
}

func encodeV1(series []written) ([]byte, error) {
	var req prompb.WriteRequest
	for _, s := range series {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(s.labels, nil)}
		for _, p := range s.samples {
			if p.h != nil {
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(p.t, p.h))
			} else {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: p.t, Value: p.v})
			}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	return req.Marshal()
}

func encodeV2(series []written) ([]byte, error) {
	var req writev2.Request
	symbols := writev2.NewSymbolTable()
	for _, s := range series {
		ts := writev2.TimeSeries{LabelsRefs: symbols.SymbolizeLabels(s.labels, nil)}
		for _, p := range s.samples {
			if p.h != nil {
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(p.st, p.t, p.h))
			} else {
				ts.Samples = append(ts.Samples, writev2.Sample{Timestamp: p.t, Value: p.v, StartTimestamp: p.st})
			}
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	req.Symbols = symbols.Symbols()
	return req.Marshal()
}
