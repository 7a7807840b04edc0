package federate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/backend/memory"
)

// point is a sample of a series in memory.
type point struct {
	t  int64
	f  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (p point) T() int64                      { return p.t }
func (p point) F() float64                    { return p.f }
func (p point) H() *histogram.Histogram       { return p.h }
func (p point) FH() *histogram.FloatHistogram { return p.fh }
func (p point) ST() int64                     { return 0 }
func (p point) Copy() chunks.Sample           { return p }
func (p point) Type() chunkenc.ValueType {
	switch {
	case p.h != nil:
		return chunkenc.ValHistogram
	case p.fh != nil:
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// inMemory returns the series of its next set at each Select.
type inMemory struct {
	storage.Querier
	sets []storage.SeriesSet
}

func (m *inMemory) Select(context.Context, bool, *storage.SelectHints, ...*labels.Matcher) storage.SeriesSet {
	set := m.sets[0]
	m.sets = m.sets[1:]
	return set
}

func series(name string, samples ...chunks.Sample) storage.Series {
	return storage.NewListSeries(labels.FromStrings("__name__", name), samples)
}

// list is a SeriesSet.
type list struct {
	series []storage.Series
	err    error
	at     int
}

func (l *list) Next() bool                        { l.at++; return l.at <= len(l.series) }
func (l *list) At() storage.Series                { return l.series[l.at-1] }
func (l *list) Err() error                        { return l.err }
func (l *list) Warnings() annotations.Annotations { return nil }

// TestSelect checks which sample of a series is selected, and the order of series.
func TestSelect(t *testing.T) {
	stale := math.Float64frombits(value.StaleNaN)
	h := &histogram.FloatHistogram{Count: 1, Sum: 2, ZeroCount: 1}
	q := &inMemory{sets: []storage.SeriesSet{
		&list{series: []storage.Series{
			storage.NewListSeries(labels.FromStrings("A", "1", "__name__", "z"), []chunks.Sample{point{t: 1, f: 5}}),
			series("a", point{t: 1, f: 1}, point{t: 2, fh: h}),
			series("b", point{t: 1, fh: h}, point{t: 2, f: 3}),
			series("gone", point{t: 1, f: 1}, point{t: 2, f: stale}),
			series("gone_too", point{t: 1, fh: h}, point{t: 2, fh: &histogram.FloatHistogram{Sum: stale}}),
			series("none"),
			storage.NewListSeries(labels.FromStrings("no", "name"), []chunks.Sample{point{t: 1, f: 5}}),
		}},
		&list{series: []storage.Series{series("a", point{t: 1, f: 1}, point{t: 2, fh: h}), series("c", point{t: 1, f: 4})}},
	}}
	got, err := Select(context.Background(), q, Request{Sets: make([][]*labels.Matcher, 2)})
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, s := range got {
		text += fmt.Sprintf("%s %d %g %v; ", s.name(), s.T, s.V, s.H != nil)
	}
	if text != "a 2 0 true; b 2 3 false; c 1 4 false; z 1 5 false; " {
		t.Errorf("selected %s", text)
	}
}

// TestSelectFails checks that no samples are returned after an error.
func TestSelectFails(t *testing.T) {
	broken := errors.New("broken")
	of := func(l *list) *inMemory { return &inMemory{sets: []storage.SeriesSet{l}} }
	one := []storage.Series{series("a", point{t: 1, f: 1})}
	if got, err := Select(context.Background(), of(&list{series: one, err: broken}), Request{Sets: make([][]*labels.Matcher, 1)}); !errors.Is(err, broken) || got != nil {
		t.Errorf("a set that fails at its end: %v, %v", got, err)
	}
	bad := &storage.SeriesEntry{Lset: labels.FromStrings("__name__", "a"), SampleIteratorFn: func(chunkenc.Iterator) chunkenc.Iterator { return failing{chunkenc.NewNopIterator(), broken} }}
	if got, err := Select(context.Background(), of(&list{series: append(one, bad)}), Request{Sets: make([][]*labels.Matcher, 1)}); !errors.Is(err, broken) || got != nil {
		t.Errorf("a series that fails: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := Select(ctx, of(&list{series: one}), Request{Sets: make([][]*labels.Matcher, 1)}); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("canceled: %v, %v", got, err)
	}
	account := memory.NewAccount(1<<20, nil)
	held := account.Begin(memory.Request{Tenant: "a", Limit: 1})
	defer held.Close()
	if got, err := Select(memory.NewContext(context.Background(), held), of(&list{series: one}), Request{Sets: make([][]*labels.Matcher, 1)}); err == nil || got != nil {
		t.Errorf("without memory: %v, %v", got, err)
	}
}

// failing is an iterator with an error.
type failing struct {
	chunkenc.Iterator
	err error
}

func (f failing) Err() error { return f.err }

// TestFormat checks which formats can be negotiated.
func TestFormat(t *testing.T) {
	for accept, want := range map[string]expfmt.FormatType{
		"": expfmt.TypeTextPlain, "*/*": expfmt.TypeTextPlain, "text/plain": expfmt.TypeTextPlain, "image/png": expfmt.TypeTextPlain,
		"application/openmetrics-text;version=1.0.0": expfmt.TypeTextPlain,
		"application/openmetrics-text;version=1.0.0,application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.5": expfmt.TypeProtoDelim,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text":                                                       expfmt.TypeProtoText,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text":                                               expfmt.TypeProtoCompact,
	} {
		if got := Format(http.Header{"Accept": {accept}}).FormatType(); got != want {
			t.Errorf("%s: %v, want %v", accept, got, want)
		}
	}
}

// TestBytes checks that Bytes is at least the size of the text.
func TestBytes(t *testing.T) {
	var small, large []Sample
	for i := range 1000 {
		ls := labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "long", strings.Repeat("x", i))
		large = append(large, Sample{Labels: ls, T: 1, V: math.Pi})
	}
	small = large[:10]
	for _, list := range [][]Sample{small, large} {
		a := NewAnswer(expfmt.NewFormat(expfmt.TypeTextPlain), list)
		var out bytes.Buffer
		if err := a.Write(&out); err != nil || a.Bytes() < int64(out.Len()) {
			t.Errorf("%v: %d bytes of memory for %d of text", err, a.Bytes(), out.Len())
		}
	}
}
