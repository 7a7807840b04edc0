package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/wire"
)

// encodeRequest encodes a request, with the time left until the deadline of ctx.
func encodeRequest(ctx context.Context, r *evaluation.Request) (*wire.EvaluationRequest, error) {
	lim, err := json.Marshal(&r.Limits)
	if err != nil {
		return nil, fmt.Errorf("evaluation request: encode the limits: %w", err)
	}
	h := http.Header{}
	r.Access.SetHeaders(h)
	out := &wire.EvaluationRequest{
		Tenant: h.Get(tenant.HeaderOrgID), Policy: h.Get(tenant.HeaderPolicy), Limits: lim, Text: r.Text,
		Start: r.Times.Start.Unix(), StartNanoseconds: int32(r.Times.Start.Nanosecond()),
		End: r.Times.End.Unix(), EndNanoseconds: int32(r.Times.End.Nanosecond()), Step: int64(r.Times.Step),
		Lookback: int64(r.Lookback), Class: int32(r.Class), Uncached: r.Uncached, Alone: r.Alone, Partial: r.Partial,
	}
	if r.Part != nil {
		out.Part, out.First, out.Last = true, r.Part.Start, r.Part.End
	}
	if s := r.Shard; s != nil {
		out.Shard = &wire.EvaluationShard{Aggregation: int64(s.Aggregation), Argument: s.Argument, Of: int64(s.Of),
			Range: encodeRange(s.Range)}
	}
	if deadline, ok := ctx.Deadline(); ok {
		out.Timeout = max(time.Until(deadline).Milliseconds(), 1)
	}
	return out, nil
}

func decodeRequest(in *wire.EvaluationRequest) (*evaluation.Request, error) {
	access, err := tenant.AccessFromHeaders(http.Header{
		http.CanonicalHeaderKey(tenant.HeaderOrgID): {in.Tenant}, http.CanonicalHeaderKey(tenant.HeaderPolicy): {in.Policy},
	})
	if err != nil {
		return nil, err
	}
	r := &evaluation.Request{
		Access: access, Text: in.Text,
		Times: split.Times{Start: time.Unix(in.Start, int64(in.StartNanoseconds)).UTC(),
			End: time.Unix(in.End, int64(in.EndNanoseconds)).UTC(), Step: time.Duration(in.Step)},
		Lookback: time.Duration(in.Lookback), Class: queue.Class(in.Class), Uncached: in.Uncached, Alone: in.Alone, Partial: in.Partial,
		Timeout: time.Duration(in.Timeout) * time.Millisecond,
	}
	if in.Part {
		r.Part = &split.Range{Start: in.First, End: in.Last}
	}
	if s := in.Shard; s != nil {
		r.Shard = &shard.Shard{Aggregation: int(s.Aggregation), Argument: s.Argument, Of: int(s.Of), Range: decodeRange(&s.Range)}
	}
	if err := checkRequest(r, in); err != nil {
		return nil, fmt.Errorf("evaluation request: %w", err)
	}
	if err := json.Unmarshal(in.Limits, &r.Limits); err != nil {
		return nil, fmt.Errorf("evaluation request: decode the limits: %w", err)
	}
	return r, nil
}

// checkRequest returns an error for values that no query has. A negative lookback is allowed: the
// engine then uses its default.
func checkRequest(r *evaluation.Request, in *wire.EvaluationRequest) error {
	switch {
	case r.Class < queue.Range || r.Class > queue.Rule:
		return fmt.Errorf("unknown class %d", in.Class)
	case r.Times.Step < 0:
		return errors.New("negative step")
	case r.Instant() && r.Part != nil:
		return errors.New("an instant query cannot have a part")
	case !r.Instant() && r.Times.End.Before(r.Times.Start):
		return errors.New("the end is before the start")
	case r.Part != nil && r.Part.End < r.Part.Start:
		return errors.New("the last step of the part is before the first")
	case r.Shard != nil && (r.Part == nil || r.Shard.Of < 1):
		return fmt.Errorf("invalid shard: one of %d shards (at least 1 is required), for a part: %t (true is required)",
			r.Shard.Of, r.Part != nil)
	case in.Timeout < 0 || in.Timeout > math.MaxInt64/int64(time.Millisecond):
		return fmt.Errorf("timeout of %d ms", in.Timeout) // it would overflow, and the evaluation would have no timeout
	}
	return nil
}

// spacing returns the time from which the points of an answer are counted (Unix milliseconds, the
// first step of a range query or part) and the time between two points in milliseconds; see
// evaluation.AppendSeries.
func spacing(r *evaluation.Request) (start, step int64) {
	if r.Instant() || r.Times.Step%time.Millisecond != 0 {
		return r.Times.Start.UnixMilli(), 1
	}
	if r.Part != nil {
		return r.Part.Start, r.Times.Step.Milliseconds()
	}
	return r.Times.Start.UnixMilli(), r.Times.Step.Milliseconds()
}

// Kinds of values, as in wire.EvaluationEnd.
const (
	kindNone   = ""
	kindMatrix = "matrix"
	kindVector = "vector"
	kindScalar = "scalar"
	kindString = "string"
)

// sendAnswer sends an answer in one or more messages; only the last one has End.
func sendAnswer(r *evaluation.Request, a *evaluation.Answer, send func(*wire.EvaluationResponse) error) error {
	end := &wire.EvaluationEnd{Joinable: a.Joinable, Series: a.Cost.Series, Samples: a.Cost.Samples, Read: a.Cost.Read,
		Switches: a.Switches, Syntax: a.Syntax, Sharded: a.Sharded,
		AnyReaders: a.Readers.Any, Readers: a.Readers.IDs, Failure: encodeFailure(a.Err), Fault: encodeFailure(a.Fault)}
	end.Timing = encodeTiming(&a.Timing)
	for _, n := range a.Notes {
		end.Notes = append(end.Notes, wire.EvaluationNote{Raw: n.Raw, Placed: n.Placed, Info: n.Info})
	}
	p := &pieces{send: send}
	p.start, p.step = spacing(r)
	var err error
	switch v := a.Value.(type) {
	case promql.Matrix:
		end.Kind = kindMatrix
		for i := 0; i < len(v) && err == nil; i++ {
			err = p.add(&v[i])
		}
	case promql.Vector:
		end.Kind = kindVector
		for i := 0; i < len(v) && err == nil; i++ {
			err = p.add(seriesOf(&v[i]))
		}
	case promql.Scalar:
		end.Kind, end.Time, end.Scalar = kindScalar, v.T, math.Float64bits(v.V)
	case promql.String:
		end.Kind, end.Time, end.Text = kindString, v.T, v.V
	}
	if err != nil {
		return err
	}
	p.piece.End = end
	return p.flush()
}

// pieces collects series until they are large enough for a message.
type pieces struct {
	start, step int64
	send        func(*wire.EvaluationResponse) error
	piece       wire.EvaluationResponse
}

func (p *pieces) add(s *promql.Series) error {
	b := encoding.Encbuf{B: p.piece.Series}
	evaluation.AppendSeries(&b, s, p.start, p.step)
	p.piece.Series = b.B
	p.piece.Count++
	if len(p.piece.Series) < partBytes {
		return nil
	}
	return p.flush()
}

func (p *pieces) flush() error {
	err := p.send(&p.piece)
	p.piece = wire.EvaluationResponse{}
	return err
}

// seriesOf returns a sample of a vector as a series.
func seriesOf(s *promql.Sample) *promql.Series {
	out := &promql.Series{Metric: s.Metric}
	if s.H != nil {
		out.Histograms = []promql.HPoint{{T: s.T, H: s.H}}
	} else {
		out.Floats = []promql.FPoint{{T: s.T, F: s.F}}
	}
	return out
}

// collector builds an answer from the messages that sendAnswer sent.
type collector struct {
	start, step int64
	holding     *memory.Holding
	series      promql.Matrix
}

func newCollector(r *evaluation.Request, h *memory.Holding) *collector {
	c := &collector{holding: h.Part()}
	c.start, c.step = spacing(r)
	return c
}

// The memory that is reserved for a received answer: answerFactor bytes for each byte of its
// encoding (decoded points have twice the size; the message and gRPC's copy of it also use
// memory), and answerSeriesBytes for each series.
const (
	answerFactor      = 4
	answerSeriesBytes = 200
)

// drop releases the memory of an answer that is not complete or not used.
func (c *collector) drop() { c.holding.Close() }

// add adds a message. It returns the complete answer after the last message, and nil before.
// It returns an error if there is not enough memory or the message is invalid.
func (c *collector) add(in *wire.EvaluationResponse) (*evaluation.Answer, error) {
	if in.Count < 0 || in.Count > int64(len(in.Series)) {
		return nil, fmt.Errorf("invalid evaluation response: %d series cannot be encoded in %d bytes", in.Count, len(in.Series))
	}
	if err := c.holding.Take(answerFactor*int64(len(in.Series)) + answerSeriesBytes*in.Count); err != nil {
		return nil, err
	}
	list, err := evaluation.ReadAll(in.Series, int(in.Count), c.start, c.step)
	if err != nil {
		return nil, fmt.Errorf("invalid evaluation response: %w", err)
	}
	c.series = append(c.series, list...)
	if in.End == nil {
		return nil, nil
	}
	return c.complete(in.End)
}

func (c *collector) complete(end *wire.EvaluationEnd) (*evaluation.Answer, error) {
	a := &evaluation.Answer{Joinable: end.Joinable, Switches: end.Switches, Syntax: end.Syntax, Sharded: end.Sharded,
		Err: decodeFailure(end.Failure), Fault: decodeFailure(end.Fault),
		Readers: evaluation.Readers{Any: end.AnyReaders, IDs: end.Readers},
		Cost:    evaluation.Cost{Series: end.Series, Samples: end.Samples, Read: end.Read}}
	a.Timing = decodeTiming(end.Timing)
	for _, n := range end.Notes {
		a.Notes = append(a.Notes, evaluation.Note{Raw: n.Raw, Placed: n.Placed, Info: n.Info})
	}
	var err error
	if a.Err == nil {
		a.Value, err = c.value(end)
	}
	return a, err
}

func (c *collector) value(end *wire.EvaluationEnd) (parser.Value, error) {
	if len(c.series) > 0 && end.Kind != kindMatrix && end.Kind != kindVector {
		return nil, fmt.Errorf("invalid evaluation response: a value of kind %q has series", end.Kind)
	}
	switch end.Kind {
	case kindNone:
		return nil, nil
	case kindMatrix:
		if c.series == nil {
			return promql.Matrix{}, nil
		}
		return c.series, nil
	case kindVector:
		v := make(promql.Vector, len(c.series))
		for i := range c.series {
			if err := sampleOf(&c.series[i], &v[i]); err != nil {
				return nil, err
			}
		}
		return v, nil
	case kindScalar:
		return promql.Scalar{T: end.Time, V: math.Float64frombits(end.Scalar)}, nil
	case kindString:
		return promql.String{T: end.Time, V: end.Text}, nil
	}
	return nil, fmt.Errorf("invalid evaluation response: unknown kind of value %q", end.Kind)
}

// sampleOf is the reverse of seriesOf.
func sampleOf(s *promql.Series, to *promql.Sample) error {
	to.Metric = s.Metric
	switch {
	case len(s.Floats) == 1 && len(s.Histograms) == 0:
		to.T, to.F = s.Floats[0].T, s.Floats[0].F
	case len(s.Histograms) == 1 && len(s.Floats) == 0:
		to.T, to.H = s.Histograms[0].T, s.Histograms[0].H
	default:
		return fmt.Errorf("invalid evaluation response: a vector has %d points of %s, not 1", len(s.Floats)+len(s.Histograms), s.Metric)
	}
	return nil
}
