package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/util/httputil"

	"github.com/palliumhq/pallium/backend/api/federate"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
)

// compressed wraps a handler and compresses its responses if the client accepts that.
func compressed(next http.HandlerFunc) http.Handler {
	return httputil.CompressionHandler{Handler: next}
}

// federate implements Prometheus' endpoint federate: the current samples of the series that match
// one of match[], in a format of scrapes. It reads all samples before it responds, so that an error
// still sets the status. It is wrapped in admit.
func (a *api) federate(w http.ResponseWriter, r *http.Request) {
	sets, err := a.federated(r)
	if err != nil {
		a.reject(w, r, err)
		return
	}
	samples, err := a.current(r, sets)
	if err != nil {
		a.reject(w, r, err)
		return
	}
	a.writeFederated(w, r, samples)
}

// current returns the current samples of series that match one of the sets. It closes the querier
// before it returns, so that a slow client does not hold the memory of the read.
func (a *api) current(r *http.Request, sets [][]*labels.Matcher) ([]federate.Sample, error) {
	end := a.Now()
	req := federate.Request{Sets: sets, Start: end.Add(-a.Lookback).UnixMilli(), End: end.UnixMilli()}
	q, err := a.Queryable.Querier(req.Start, req.End)
	if err != nil {
		return nil, err
	}
	defer func() { _ = q.Close() }()
	ctx, fault := querier.NoteFaults(r.Context())
	samples, err := federate.Select(ctx, q, req)
	if cause := fault(); cause != nil && err != nil {
		return nil, logged{errors.Join(cause, err)} // the Queryable has logged it
	}
	return samples, err
}

// federated returns the matchers of a request. Without a selector, or with {}, it returns an error;
// Prometheus' response is empty, as if there were no series.
func (a *api) federated(r *http.Request) ([][]*labels.Matcher, error) {
	if len(r.Form["match[]"]) == 0 {
		return nil, badRequest{errors.New(`at least one parameter match[] is required, a series selector such as {job="app"}`)}
	}
	sets, err := a.parser(r).ParseMetricSelectors(r.Form["match[]"])
	if err != nil {
		return nil, badRequest{fmt.Errorf("parameter match[]: %w", err)}
	}
	for _, set := range sets {
		if len(set) == 0 {
			return nil, badRequest{errors.New("parameter match[]: the selector {} has no matcher; to select all series, use {__name__!=\"\"}")}
		}
	}
	return sets, nil
}

// writeFederated responds with samples.
func (a *api) writeFederated(w http.ResponseWriter, r *http.Request, samples []federate.Sample) {
	format := federate.Format(r.Header)
	answer := federate.NewAnswer(format, samples)
	if err := memory.FromContext(r.Context()).Take(answer.Bytes()); err != nil {
		a.reject(w, r, err)
		return
	}
	w.Header().Set("Content-Type", string(format))
	out := &noteErrors{Writer: w}
	if err := answer.Write(out); err != nil {
		if out.err == nil { // not one of the connection
			a.logFailure(r, err)
		}
		// The client already has a part of the samples; only closing the connection shows that some
		// are missing.
		panic(http.ErrAbortHandler)
	}
}

// noteErrors records the error with which writing failed.
type noteErrors struct {
	io.Writer
	err error
}

// Write implements io.Writer.
func (w *noteErrors) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}
