package rpc

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// Kinds of failures of an evaluation, as in wire.EvaluationFailure.
const (
	failedExceeded  = "limit"      // the text is a limits.Exceeded as JSON
	failedQueueFull = "queue_full" // likewise
	failedTimeout   = "timeout"    // promql.ErrQueryTimeout
	failedCanceled  = "canceled"   // promql.ErrQueryCanceled
	failedStorage   = "storage"    // promql.ErrStorage
	failedExecution = "execution"  // any other
)

// cause is an error that errors.Is also finds in the process to which it is sent.
type cause struct {
	name string
	err  error
}

// causes returns the errors on which the response to a query depends.
func causes() []cause {
	return []cause{
		{"memory_full", memory.ErrFull},
		{"memory_ended", memory.ErrEnded},
		{"samples_lost", series.ErrLost},
		{"zones_lost", peers.ErrLost},
		{"too_few_peers", peers.ErrTooFew},
		{"too_few_ingesters", ring.ErrTooFew},
		{"no_querier", dispatch.ErrNoQuerier},
		{"unavailable", wire.ErrUnavailable},
		{"deadline", context.DeadlineExceeded},
		{"canceled", context.Canceled},
	}
}

// encodeFailure encodes the error of an evaluation; nil stays nil.
func encodeFailure(err error) *wire.EvaluationFailure {
	if err == nil {
		return nil
	}
	out := &wire.EvaluationFailure{Kind: failedExecution, Text: err.Error()}
	for _, c := range causes() {
		if errors.Is(err, c.err) {
			out.Cause = c.name
			break
		}
	}
	var (
		exceeded *limits.Exceeded
		full     *querier.QueueFullError
		timeout  promql.ErrQueryTimeout
		canceled promql.ErrQueryCanceled
		storage  promql.ErrStorage
	)
	switch {
	case errors.As(err, &full):
		out.Kind, out.Text = failedQueueFull, exceededText(full.Exceeded())
	case errors.As(err, &exceeded):
		out.Kind, out.Text = failedExceeded, exceededText(exceeded)
	case errors.As(err, &timeout):
		out.Kind, out.Text = failedTimeout, string(timeout)
	case errors.As(err, &canceled):
		out.Kind, out.Text = failedCanceled, string(canceled)
	case errors.As(err, &storage):
		out.Kind, out.Text = failedStorage, storage.Err.Error()
	}
	return out
}

func exceededText(e *limits.Exceeded) string {
	data, err := json.Marshal(e)
	if err != nil { // a struct of strings
		return "{}"
	}
	return string(data)
}

// decodeFailure is the reverse of encodeFailure. The errors have the types on which the
// status of Prometheus' API depends.
func decodeFailure(in *wire.EvaluationFailure) error {
	if in == nil {
		return nil
	}
	err := errors.New(in.Text)
	for _, c := range causes() {
		if c.name == in.Cause {
			err = sent{in.Text, c.err}
		}
	}
	switch in.Kind {
	case failedExceeded, failedQueueFull:
		exceeded := &limits.Exceeded{}
		if json.Unmarshal([]byte(in.Text), exceeded) != nil {
			return err
		}
		if in.Kind == failedQueueFull {
			return querier.QueueFull(exceeded)
		}
		if exceeded.Of(limits.QueryTimeout) {
			return querier.TimedOutAt(exceeded)
		}
		return exceeded
	case failedTimeout:
		return promql.ErrQueryTimeout(in.Text)
	case failedCanceled:
		return promql.ErrQueryCanceled(in.Text)
	case failedStorage:
		return promql.ErrStorage{Err: err}
	}
	return err
}

// sent is an error of another process.
type sent struct {
	text string
	is   error
}

func (e sent) Error() string { return e.text }
func (e sent) Unwrap() error { return e.is }
