package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

func exampleRequest() *evaluation.Request {
	return &evaluation.Request{
		Access: tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}, Limits: limits.Default(), Text: `rate(x{a="b"}[5m])`,
		Times: split.Times{Start: time.Unix(1_800_000_000, 7_000_000).UTC(), End: time.Unix(1_800_086_400, 9_000_001).UTC(), Step: time.Minute},
		Part:  &split.Range{Start: 1_800_000_000_007, End: 1_800_000_600_007}, Lookback: time.Second, Class: queue.Rule,
		Uncached: true, Alone: true, Partial: true,
	}
}

func TestRequestEncoding(t *testing.T) {
	instant := exampleRequest()
	instant.Part, instant.Times.Step, instant.Times.End = nil, 0, instant.Times.Start
	far := exampleRequest()
	far.Times.Start = time.Unix(-62_135_596_800, 0).UTC() // year 1
	part := exampleRequest()
	part.Shard = &shard.Shard{Aggregation: 7, Argument: true, Of: 3,
		Range: series.LabelRange{From: labels.FromStrings("a", "1", "b", "ü"), To: labels.FromStrings("a", "2")}}
	open := exampleRequest()
	open.Shard = &shard.Shard{Aggregation: shard.Everything, Of: 1}
	for _, want := range []*evaluation.Request{exampleRequest(), instant, far, part, open} {
		in, err := encodeRequest(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRequest(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	in, err := encodeRequest(ctx, exampleRequest())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := decodeRequest(in); err != nil || r.Timeout <= 59*time.Minute || r.Timeout > time.Hour {
		t.Errorf("timeout %v, %v", r.Timeout, err)
	}
	for name, change := range map[string]func(*wire.EvaluationRequest){
		"no tenant":                  func(in *wire.EvaluationRequest) { in.Tenant = "" },
		"no policy":                  func(in *wire.EvaluationRequest) { in.Policy = "" },
		"an unknown policy":          func(in *wire.EvaluationRequest) { in.Policy = "all but x" },
		"a negative step":            func(in *wire.EvaluationRequest) { in.Step = -1 },
		"a part of an instant query": func(in *wire.EvaluationRequest) { in.Step = 0 },
		"an end before the start":    func(in *wire.EvaluationRequest) { in.End = in.Start - 1 },
		"an end a nanosecond before": func(in *wire.EvaluationRequest) { in.End, in.EndNanoseconds = in.Start, in.StartNanoseconds-1 },
		"a part that ends before":    func(in *wire.EvaluationRequest) { in.Last = in.First - 1 },
		"a negative timeout":         func(in *wire.EvaluationRequest) { in.Timeout = -1 },
		"a timeout that overflows":   func(in *wire.EvaluationRequest) { in.Timeout = math.MaxInt64/1_000_000 + 1 },
		"an unknown class":           func(in *wire.EvaluationRequest) { in.Class = 3 },
		"broken limits":              func(in *wire.EvaluationRequest) { in.Limits = []byte("{") },
	} {
		bad := *in
		change(&bad)
		if _, err := decodeRequest(&bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// pass sends an answer through its encoding.
func pass(t *testing.T, r *evaluation.Request, a *evaluation.Answer) *evaluation.Answer {
	t.Helper()
	c := newCollector(r, nil)
	var out *evaluation.Answer
	if err := sendAnswer(r, a, func(piece *wire.EvaluationResponse) error {
		data, err := wire.Codec{}.Marshal(piece)
		if err != nil {
			return err
		}
		var in wire.EvaluationResponse
		if err := (wire.Codec{}).Unmarshal(data, &in); err != nil {
			return err
		}
		if out != nil {
			return errors.New("a piece after the last one")
		}
		out, err = c.add(&in)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAnswerEncoding(t *testing.T) {
	part := exampleRequest()
	start, step := part.Part.Start, int64(60_000)
	instant := exampleRequest()
	instant.Part, instant.Times.Step = nil, 0
	at := instant.Times.Start.UnixMilli()
	custom := &histogram.FloatHistogram{Schema: histogram.CustomBucketsSchema, Count: 3, Sum: math.Copysign(0, -1),
		PositiveSpans: []histogram.Span{{Length: 2}}, PositiveBuckets: []float64{1, 2}, CustomValues: []float64{0.5}}
	many := promql.Matrix{}
	for i := range 3000 { // several pieces
		s := promql.Series{Metric: labels.FromStrings("i", fmt.Sprint(i))}
		for k := range int64(100) {
			s.Floats = append(s.Floats, promql.FPoint{T: start + k*step, F: float64(i)})
		}
		many = append(many, s)
	}
	for name, tt := range map[string]struct {
		r *evaluation.Request
		v parser.Value
	}{
		"matrix": {part, promql.Matrix{
			{Metric: labels.FromStrings("a", "1"), Floats: []promql.FPoint{{T: start, F: math.Copysign(0, -1)},
				{T: start + 3*step, F: math.Inf(1)}, {T: start + 10*step, F: 1e-300}}},
			{Metric: labels.EmptyLabels(), Histograms: []promql.HPoint{{T: start + step, H: tsdbutil.GenerateTestFloatHistogram(3)},
				{T: start + 2*step, H: custom}}},
		}},
		"empty matrix":     {part, promql.Matrix{}},
		"large matrix":     {part, many},
		"matrix at a time": {instant, promql.Matrix{{Metric: labels.FromStrings("a", "1"), Floats: []promql.FPoint{{T: at - 299_999, F: 1}, {T: at, F: 2}}}}},
		"vector": {instant, promql.Vector{
			{Metric: labels.FromStrings("z", "1"), T: at, F: 2}, {Metric: labels.FromStrings("a", "1"), T: at, H: custom}}},
		"empty vector": {instant, promql.Vector{}},
		"scalar":       {instant, promql.Scalar{T: at, V: math.Copysign(0, -1)}},
		"string":       {instant, promql.String{T: at, V: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := &evaluation.Answer{Value: tt.v, Joinable: true, Switches: "v1", Syntax: "promql_x", Cost: evaluation.Cost{Series: 1, Samples: 2, Read: 3},
				Readers: evaluation.Readers{Any: true, IDs: []string{"a", "b"}},
				Notes:   []evaluation.Note{{Raw: "r", Placed: "r (1:1)", Info: true}, {Raw: "w", Placed: "w"}},
				Timing:  exampleTiming()}
			got := pass(t, tt.r, want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
	stale := pass(t, instant, &evaluation.Answer{Value: promql.Scalar{V: math.Float64frombits(value.StaleNaN)}})
	if !value.IsStaleNaN(stale.Value.(promql.Scalar).V) {
		t.Error("the bits of a NaN changed")
	}
}

// exampleTiming returns a report without zeros, so that a field that is not encoded is noticed.
func exampleTiming() timing.Report {
	r := timing.Report{Reads: 101, Bytes: 102, Cached: 103, Evaluated: 104, Omitted: 105, Parts: []timing.Part{
		{Start: -1, End: 2, Cached: true}, {Start: 3, End: 4, Shard: true, Queue: 5, Evaluation: 6}}}
	for k := range r.Times {
		r.Times[k] = time.Duration(k + 1)
	}
	return r
}

// TestTimingOfOtherVersions checks that processes of older versions, which send no timing, and of
// newer versions, which may send times of unknown kinds, are supported.
func TestTimingOfOtherVersions(t *testing.T) {
	if got := decodeTiming(nil); !reflect.DeepEqual(got, timing.Report{}) {
		t.Errorf("of an older version: %+v", got)
	}
	want := exampleTiming()
	newer := encodeTiming(&want)
	newer.Times = append(newer.Times, 1, 2, 3)
	if got := decodeTiming(newer); !reflect.DeepEqual(got, want) {
		t.Errorf("of a newer version: %+v", got)
	}
	want = timing.Report{}
	want.Times[0] = 1
	if got := decodeTiming(&wire.EvaluationTiming{Times: []int64{1}}); !reflect.DeepEqual(got, want) {
		t.Errorf("with fewer kinds: %+v", got)
	}
}

// TestFailureEncoding checks that an error that another process received leads to the same response
// of Prometheus' API, and the same explanation, as in the process in which it occurred.
func TestFailureEncoding(t *testing.T) {
	lim := limits.Default()
	r := exampleRequest()
	for _, want := range []error{
		errors.New("vector cannot contain metrics with the same labelset"),
		limits.MaxQuerySamples.Exceeded(&lim, limits.More),
		querier.TimedOut(&lim),
		querier.QueueFull(limits.MaxQueuedQueries.Exceeded(&lim, 3)),
		promql.ErrQueryTimeout("expression evaluation"), promql.ErrQueryCanceled("query execution"),
		promql.ErrStorage{Err: errors.New("series could not be read")},
		promql.ErrStorage{Err: fmt.Errorf("%w; try again later", memory.ErrFull)},
		memory.ErrEnded, promql.ErrStorage{Err: series.ErrLost},
		fmt.Errorf("read: %w", peers.ErrLost), fmt.Errorf("read: %w", peers.ErrTooFew), fmt.Errorf("read: %w", ring.ErrTooFew),
		fmt.Errorf("read: %w", context.DeadlineExceeded), promql.ErrStorage{Err: dispatch.ErrNoQuerier},
	} {
		a := pass(t, r, &evaluation.Answer{Err: want, Fault: want})
		for _, got := range []error{a.Err, a.Fault} {
			if got == nil || got.Error() != want.Error() {
				t.Errorf("got %v, want %v", got, want)
			}
			for _, c := range causes() {
				if errors.Is(got, c.err) != errors.Is(want, c.err) {
					t.Errorf("%v: is %s: %v", want, c.name, errors.Is(got, c.err))
				}
			}
			same := func(as func(error) bool) {
				if as(got) != as(want) {
					t.Errorf("%v: %T, want %T", want, got, want)
				}
			}
			same(func(err error) bool { var e *limits.Exceeded; return errors.As(err, &e) })
			same(func(err error) bool { var e *querier.QueueFullError; return errors.As(err, &e) })
			same(func(err error) bool { var e promql.ErrQueryTimeout; return errors.As(err, &e) })
			same(func(err error) bool { var e promql.ErrQueryCanceled; return errors.As(err, &e) })
			same(func(err error) bool { var e promql.ErrStorage; return errors.As(err, &e) })
		}
	}
	if decodeFailure(nil) != nil || encodeFailure(nil) != nil {
		t.Errorf("nil is decoded as %v and encoded as %v, want nil", decodeFailure(nil), encodeFailure(nil))
	}
}

// FuzzAnswer checks that decoding any message returns an answer or an error.
func FuzzAnswer(f *testing.F) {
	r := exampleRequest()
	_ = sendAnswer(r, &evaluation.Answer{Value: promql.Matrix{{Metric: labels.FromStrings("a", "1"),
		Floats: []promql.FPoint{{T: r.Part.Start, F: 1}}, Histograms: []promql.HPoint{{T: r.Part.Start, H: tsdbutil.GenerateTestFloatHistogram(1)}}}}},
		func(piece *wire.EvaluationResponse) error {
			data, err := piece.Marshal()
			f.Add(data)
			return err
		})
	f.Fuzz(func(t *testing.T, data []byte) {
		var in wire.EvaluationResponse
		if in.Unmarshal(data) != nil {
			return
		}
		for _, r := range []*evaluation.Request{r, {Times: split.Times{Start: time.Unix(0, 0)}}} {
			if _, err := newCollector(r, nil).add(&in); err == nil && in.Count > int64(len(in.Series)) {
				t.Errorf("accepted %d series in %d bytes", in.Count, len(in.Series))
			}
		}
	})
}

// FuzzRequest checks that decoding any message returns a request or an error.
func FuzzRequest(f *testing.F) {
	in, err := encodeRequest(context.Background(), exampleRequest())
	if err != nil {
		f.Fatal(err)
	}
	data, err := in.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var in wire.EvaluationRequest
		if in.Unmarshal(data) != nil {
			return
		}
		if r, err := decodeRequest(&in); err == nil && (r.Access.Check() != nil || r.Times.Step < 0 || r.Timeout < 0 ||
			!r.Instant() && r.Times.End.Before(r.Times.Start) || r.Part != nil && r.Part.End < r.Part.Start) {
			t.Errorf("accepted %+v", r)
		}
	})
}
