package main

import (
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// TestGenerator checks that Prometheus' own types decode the hand-written encoding, to the same
// series in both versions, each once per round.
func TestGenerator(t *testing.T) {
	const n, queried = 2*perRequest + 7, 100
	at := time.UnixMilli(1_700_000_000_000)
	var decoded [2]map[string]float64
	for version := 1; version <= 2; version++ {
		g := newGenerator(n, queried, version)
		got := map[string]float64{}
		first := 0
		for _, body := range g.bodies(at, n) {
			raw, err := snappy.Decode(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			add := func(ls labels.Labels, samples int, ms int64, v float64) {
				if samples != 1 || ms != at.UnixMilli() {
					t.Fatalf("%s has %d samples, the first at %d", ls, samples, ms)
				}
				if ls.Get("__name__") == "http_requests_total" {
					first++
				}
				got[ls.String()] = v
			}
			var b labels.ScratchBuilder
			if version == 1 {
				var req prompb.WriteRequest
				if err := req.Unmarshal(raw); err != nil {
					t.Fatal(err)
				}
				for _, s := range req.Timeseries {
					add(s.ToLabels(&b, nil), len(s.Samples), s.Samples[0].Timestamp, s.Samples[0].Value)
				}
				continue
			}
			var req writev2.Request
			if err := req.Unmarshal(raw); err != nil {
				t.Fatal(err)
			}
			for _, s := range req.Timeseries {
				ls, err := s.ToLabels(&b, req.Symbols)
				if err != nil {
					t.Fatal(err)
				}
				add(ls, len(s.Samples), s.Samples[0].Timestamp, s.Samples[0].Value)
			}
		}
		if len(got) != n || first != queried {
			t.Errorf("version %d: %d series, %d in the first metric", version, len(got), first)
		}
		decoded[version-1] = got
	}
	for ls, v := range decoded[0] {
		if w, ok := decoded[1][ls]; !ok || v != w {
			t.Fatalf("%s is %v in version 1 and %v in version 2", ls, v, w)
		}
	}
}
