package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand"
	"net/http"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
)

const (
	perTarget  = 20                // series with the same timestamps
	perBody    = 100               // series of a request
	perSeries  = 20                // samples of a series in a request
	mostActive = 8 << 20           // number of samples after which fill makes Pallium seal them
	settled    = 300 * time.Second // how long background work may take to end
)

// buckets are the upper bounds of the classic histogram.
var buckets = []string{"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"}

// generator creates samples of counters, gauges, classic and native histograms like a
// Kubernetes cluster has.
type generator struct {
	series   []generated
	interval time.Duration
	next     time.Time
	rnd      *rand.Rand
}

type generated struct {
	labels []prompb.Label
	offset time.Duration // of its timestamps
	kind   kind
	rate   float64
	target uint64
	bucket uint64 // of a classic histogram, from 1
	value  float64
	hist   *histogram.Histogram
}

type kind int

const (
	counter kind = iota
	gauge
	classic
	native
)

// newGenerator returns a generator of n series: 45% request counters, 25% buckets of classic
// histograms, 25% gauges and 5% native histograms.
func newGenerator(n int, interval time.Duration, start time.Time) *generator {
	g := &generator{interval: interval, next: start, rnd: rand.New(rand.NewSource(1))}
	for i := range n {
		target := i / perTarget
		offset := time.Duration(target*733%int(interval/time.Millisecond)) * time.Millisecond
		s := generated{target: uint64(target), offset: offset, rate: 1 + float64(i%17)}
		name, le := "http_requests_total", ""
		switch at := i % perTarget; {
		case at < 9:
		case at < 14:
			name, le = "http_request_duration_seconds_bucket", buckets[2*(at-9)+1]
			s.kind, s.bucket = classic, uint64(at-8)
		case at < 17:
			name, s.kind = "container_memory_working_set_bytes", gauge
		case at < 19:
			name, s.kind = "node_load1", gauge
		default:
			name, s.kind, s.hist = "rpc_duration_seconds", native, newHistogram()
		}
		ls := map[string]string{
			"__name__": name, "cluster": "eu-west-1", "namespace": fmt.Sprint("team-", target%10), "job": fmt.Sprint("job-", target%7),
			"pod":      fmt.Sprintf("service-%d-7f9c6d5b8-%05d", target%25, target),
			"instance": fmt.Sprintf("10.0.%d.%d:8080", target>>8&255, target&255),
		}
		if le != "" {
			ls["le"] = le
		} else {
			ls["method"], ls["code"] = []string{"GET", "POST", "PUT"}[i%3], fmt.Sprint(200+100*(i%perTarget%4))
			ls["handler"] = fmt.Sprint("/api/", i%perTarget)
		}
		s.labels = prompb.FromLabels(labels.FromMap(ls), nil)
		g.series = append(g.series, s)
	}
	return g
}

func newHistogram() *histogram.Histogram {
	return &histogram.Histogram{Schema: 2, ZeroThreshold: 1e-9,
		PositiveSpans: []histogram.Span{{Offset: -12, Length: 8}}, PositiveBuckets: make([]int64, 8)}
}

// advance moves the value of a series to the next sample, at Unix milliseconds.
func (g *generator) advance(s *generated, at int64) {
	switch s.kind {
	case classic:
		// The buckets are cumulative: the value of each includes the values of the lower ones.
		for b := range s.bucket {
			s.value += float64(mix(s.target<<8|b, uint64(at)) % 5)
		}
	case counter:
		s.value += math.Floor(s.rate * g.rnd.Float64() * 10)
	case gauge:
		s.value = math.Round(s.rate*1e6 + g.rnd.Float64()*1e5)
	case native:
		// Each bucket grows by at most 3; buckets are encoded as differences.
		var before, grown int64
		for i := range s.hist.PositiveBuckets {
			more := int64(g.rnd.Intn(4))
			s.hist.PositiveBuckets[i] += more - before
			before, grown = more, grown+more
		}
		s.hist.Count += uint64(grown)
		s.hist.Sum += float64(grown) * 0.2
	}
}

// mix hashes a and b (the finalizer of SplitMix64).
func mix(a, b uint64) uint64 {
	z := a*0x9e3779b97f4a7c15 + b
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// bodies creates the request bodies with the next n samples of all series.
func (g *generator) bodies(n int) ([][]byte, error) {
	var out [][]byte
	for from := 0; from < len(g.series); from += perBody {
		var req prompb.WriteRequest
		for i := from; i < min(from+perBody, len(g.series)); i++ {
			s := &g.series[i]
			one := prompb.TimeSeries{Labels: s.labels}
			for k := range n {
				t := g.next.Add(time.Duration(k)*g.interval + s.offset).UnixMilli()
				g.advance(s, t)
				if s.kind == native {
					one.Histograms = append(one.Histograms, prompb.FromIntHistogram(t, s.hist.Copy()))
				} else {
					one.Samples = append(one.Samples, prompb.Sample{Timestamp: t, Value: s.value})
				}
			}
			req.Timeseries = append(req.Timeseries, one)
		}
		raw, err := req.Marshal()
		if err != nil {
			return nil, err
		}
		out = append(out, snappy.Encode(nil, raw))
	}
	g.next = g.next.Add(time.Duration(n) * g.interval)
	return out, nil
}

// fill writes all samples before end to all targets. If seal is set, it makes Pallium seal them at
// intervals, as in operation.
func (g *generator) fill(ctx context.Context, end time.Time, seal bool, targets ...*target) error {
	active := 0
	for {
		n := min(perSeries, int(end.Sub(g.next)/g.interval))
		if n <= 0 {
			return nil
		}
		bodies, err := g.bodies(n)
		if err != nil {
			return err
		}
		for _, body := range bodies {
			for _, t := range targets {
				if err := t.write(ctx, body); err != nil {
					return err
				}
			}
		}
		if active += n * len(g.series); seal && active >= mostActive {
			active = 0
			for _, t := range targets {
				if err := t.flush(); err != nil {
					return err
				}
			}
		}
	}
}

// write sends a body of remote write 1.0.
func (t *target) write(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.push, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: write samples: %s: %.300s", t.name, resp.Status, out)
	}
	return err
}
