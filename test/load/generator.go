package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

const perRequest = 2000 // Prometheus' default max_samples_per_send

// generator creates the bodies of remote write requests. The labels of a series are
// encoded once; a round encodes only values.
type generator struct {
	version int
	series  []generated
	symbols [][]byte // version 2.0: the encoded symbol table of each request of a round
	rnd     *rand.Rand
}

type generated struct {
	head  []byte // encoded labels
	value float64
	kind  int // 0 constant, 1 counter, 2 integer gauge, 3 decimal gauge
}

// newGenerator creates n series like those of a Kubernetes cluster. The first `queried` series
// belong to one metric, the others to many.
func newGenerator(n, queried, version int) *generator {
	g := &generator{version: version, rnd: rand.New(rand.NewSource(1))}
	st := writev2.NewSymbolTable()
	for i := range n {
		if i > 0 && i%perRequest == 0 {
			g.symbols, st = append(g.symbols, encodeSymbols(&st)), writev2.NewSymbolTable()
		}
		name := "http_requests_total"
		if i >= queried {
			name = fmt.Sprintf("container_metric_%d_total", i%200)
		}
		ls := labels.FromStrings(
			"__name__", name, "cluster", "eu-west-1", "namespace", fmt.Sprintf("team-%d", i%40),
			"pod", fmt.Sprintf("service-%d-7f9c6d5b8-%05d", i%100, i/20), "container", fmt.Sprintf("service-%d", i%100),
			"instance", fmt.Sprintf("10.%d.%d.%d:8080", i>>16&255, i>>8&255, i&255), "job", fmt.Sprintf("job-%d", i%20),
			"method", []string{"GET", "POST", "PUT"}[i%3], "code", fmt.Sprint(200+i%5), "idx", fmt.Sprint(i))
		s := generated{value: float64(g.rnd.Intn(1000)), kind: i % 4}
		if i < queried {
			s.kind = 1
		}
		if version == 1 {
			s.head = encodeLabels1(ls)
		} else {
			s.head = encodeLabels2(st.SymbolizeLabels(ls, nil))
		}
		g.series = append(g.series, s)
	}
	g.symbols = append(g.symbols, encodeSymbols(&st))
	return g
}

func encodeSymbols(st *writev2.SymbolsTable) []byte {
	var out []byte
	for _, s := range st.Symbols() {
		out = appendBytes(out, 4, []byte(s))
	}
	return out
}

func encodeLabels1(ls labels.Labels) []byte {
	var out []byte
	for _, l := range prompb.FromLabels(ls, nil) {
		b, err := l.Marshal()
		if err != nil {
			panic(err)
		}
		out = appendBytes(out, 1, b)
	}
	return out
}

func encodeLabels2(refs []uint32) []byte {
	var packed []byte
	for _, r := range refs {
		packed = binary.AppendUvarint(packed, uint64(r))
	}
	return appendBytes(nil, 1, packed)
}

func appendBytes(dst []byte, field uint64, b []byte) []byte {
	dst = binary.AppendUvarint(dst, field<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// next advances a series by one sample and returns its value.
func (g *generator) next(s *generated) float64 {
	switch s.kind {
	case 1:
		s.value += float64(g.rnd.Intn(50))
	case 2:
		s.value += float64(g.rnd.Intn(5) - 2)
	case 3:
		s.value = math.Round(g.rnd.Float64()*1000) / 10
	}
	return s.value
}

// bodies creates the requests of one round: a sample at t for the first n series.
func (g *generator) bodies(t time.Time, n int) [][]byte {
	var out [][]byte
	var raw, one, sample []byte
	for from := 0; from < n; from += perRequest {
		raw = raw[:0]
		field := uint64(1)
		if g.version == 2 {
			field = 5
			raw = append(raw, g.symbols[from/perRequest]...)
		}
		for i := from; i < min(from+perRequest, n); i++ {
			s := &g.series[i]
			sample = append(sample[:0], 1<<3|1)
			sample = binary.LittleEndian.AppendUint64(sample, math.Float64bits(g.next(s)))
			sample = append(sample, 2<<3)
			sample = binary.AppendUvarint(sample, uint64(t.UnixMilli()))
			one = appendBytes(append(one[:0], s.head...), 2, sample)
			raw = appendBytes(raw, field, one)
		}
		out = append(out, snappy.Encode(nil, raw))
	}
	return out
}
