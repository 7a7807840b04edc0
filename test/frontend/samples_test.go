package frontend

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// samples are all samples of the tenant, as a storage for Prometheus' engine.
type samples struct {
	mu     sync.Mutex
	series map[string]*sampled // by labels
}

type sampled struct {
	labels labels.Labels
	list   []chunks.Sample // ascending
}

// point is a sample: a float or a native histogram.
type point struct {
	t  int64
	f  float64
	fh *histogram.FloatHistogram
}

func (p point) T() int64                      { return p.t }
func (p point) ST() int64                     { return 0 }
func (p point) F() float64                    { return p.f }
func (p point) H() *histogram.Histogram       { return nil }
func (p point) FH() *histogram.FloatHistogram { return p.fh }
func (p point) Copy() chunks.Sample {
	if p.fh != nil {
		p.fh = p.fh.Copy()
	}
	return p
}

func (p point) Type() chunkenc.ValueType {
	if p.fh != nil {
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// has reports whether there is a sample at a time.
func (s *samples) has(ls labels.Labels, t int64) bool {
	one := s.series[ls.String()]
	return one != nil && slices.ContainsFunc(one.list, func(p chunks.Sample) bool { return p.T() == t })
}

func (s *samples) add(ls labels.Labels, p point) {
	one := s.series[ls.String()]
	if one == nil {
		one = &sampled{labels: ls}
		s.series[ls.String()] = one
	}
	at, _ := slices.BinarySearchFunc(one.list, p.t, func(p chunks.Sample, t int64) int { return int(p.T() - t) })
	one.list = slices.Insert(one.list, at, chunks.Sample(p))
}

// remove deletes the samples of the series with a label, in a range.
func (s *samples) remove(name, value string, mint, maxt int64) {
	for _, one := range s.series {
		if one.labels.Get(name) == value {
			one.list = slices.DeleteFunc(one.list, func(p chunks.Sample) bool { return p.T() >= mint && p.T() <= maxt })
		}
	}
}

// Querier implements storage.Queryable.
func (s *samples) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{s: s, mint: mint, maxt: maxt}, nil
}

type querier struct {
	storage.LabelQuerier
	s          *samples
	mint, maxt int64
}

func (q *querier) Close() error { return nil }

// Select implements storage.Querier.
func (q *querier) Select(_ context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	mint, maxt := q.mint, q.maxt
	if hints != nil {
		mint, maxt = max(mint, hints.Start), min(maxt, hints.End)
	}
	var found []storage.Series
	for _, one := range q.s.series {
		if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(one.labels.Get(m.Name)) }) {
			continue
		}
		var list []chunks.Sample
		for _, p := range one.list {
			if p.T() >= mint && p.T() <= maxt {
				list = append(list, p.Copy()) // the engine changes histograms
			}
		}
		if len(list) > 0 {
			found = append(found, storage.NewListSeries(one.labels, list))
		}
	}
	slices.SortFunc(found, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return &set{found, -1}
}

type set struct {
	list []storage.Series
	i    int
}

func (s *set) Next() bool                        { s.i++; return s.i < len(s.list) }
func (s *set) At() storage.Series                { return s.list[s.i] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

// push writes samples of one series to Pallium by remote write, and adds them.
func (s *samples) push(t *testing.T, urls, tokens []string, ls labels.Labels, list []point) {
	t.Helper()
	ts := prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil)}
	for _, p := range list {
		if p.fh != nil {
			ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(p.t, p.fh))
		} else {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: p.t, Value: p.f})
		}
	}
	raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i, url := range urls {
		send := func() (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, raw)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+tokens[i])
			req.Header.Set("Content-Type", "application/x-protobuf")
			req.Header.Set("Content-Encoding", "snappy")
			return do(t, req)
		}
		code, text := send()
		// While two ingesters of a cluster are down, pushes fail with status 503 and senders repeat them.
		for end := time.Now().Add(time.Minute); code == http.StatusServiceUnavailable && time.Now().Before(end); code, text = send() {
			time.Sleep(100 * time.Millisecond)
		}
		if code/100 != 2 {
			t.Fatalf("push: %d %s", code, strings.TrimSpace(text))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range list {
		s.add(ls, p)
	}
}
