package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/timing"
)

// begin registers a read, so that an operator can list and end it. The caller must call Done on the
// entry.
func (a *api) begin(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, *active.Entry) {
	q := active.Query{Tenant: access(r), Path: r.URL.Path, Text: textOf(r), Start: r.Form.Get("start"), End: r.Form.Get("end"),
		Step: r.Form.Get("step")}
	if q.Start == "" {
		q.Start = r.Form.Get("time")
	}
	measured := timing.New(a.Now)
	ctx, entry := a.Active.Begin(timing.NewContext(r.Context(), measured), q)
	entry.Details(func() []any {
		report := measured.Report()
		return report.Attrs()
	})
	start := a.Now()
	noter := &statusNoter{w, entry, func() string {
		report := measured.Report()
		return report.Header(a.Now().Sub(start))
	}}
	return noter, r.WithContext(withStats(ctx, r.Form.Get("stats"))), entry
}

// textOf returns the expression or the selectors of a read.
func textOf(r *http.Request) string {
	var list []string
	for _, name := range []string{"query", "match[]", "selector"} {
		list = append(list, r.Form[name]...)
	}
	return strings.Join(list, " ")
}

// statusNoter records the status of a response in the entry of the read, and adds the header
// Server-Timing to the response.
type statusNoter struct {
	http.ResponseWriter
	entry  *active.Entry
	timing func() string
}

// WriteHeader implements http.ResponseWriter.
func (w *statusNoter) WriteHeader(code int) {
	w.begin(code)
	w.ResponseWriter.WriteHeader(code)
}

// begin is called before each part of the response. Only the first call has an effect.
func (w *statusNoter) begin(code int) {
	if w.entry.Status(code) {
		w.Header().Set(timing.HeaderName, w.timing())
	}
}

// Write implements http.ResponseWriter.
func (w *statusNoter) Write(p []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *statusNoter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap implements the optional interface of http.ResponseController.
func (w *statusNoter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// notingEngine records in the entry of a read how many samples its queries have read.
type notingEngine struct{ promql.QueryEngine }

// NewInstantQuery implements promql.QueryEngine.
func (e notingEngine) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	query, err := e.QueryEngine.NewInstantQuery(ctx, q, opts, text, at)
	return noting(query, err)
}

// NewRangeQuery implements promql.QueryEngine.
func (e notingEngine) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	query, err := e.QueryEngine.NewRangeQuery(ctx, q, opts, text, start, end, step)
	return noting(query, err)
}

func noting(q promql.Query, err error) (promql.Query, error) {
	if err != nil {
		return nil, err
	}
	return notingQuery{q}, nil
}

type notingQuery struct{ promql.Query }

// Exec implements promql.Query.
func (q notingQuery) Exec(ctx context.Context) *promql.Result {
	res := q.Query.Exec(ctx)
	if err := statsWarning(ctx); err != nil && res.Err == nil {
		res.Warnings.Add(err)
	}
	if s := q.Stats(); s != nil && s.Samples != nil {
		active.Of(ctx).Read(s.Samples.TotalSamples, int64(s.Samples.PeakSamples))
	}
	return res
}

// endedByOperator reports whether an operator ended a request.
func endedByOperator(r *http.Request) bool {
	return errors.Is(context.Cause(r.Context()), active.ErrEnded)
}

// ended returns active.ErrEnded if an operator ended the request, memory.ErrEnded if the memory
// account ended it, and otherwise nil.
func ended(r *http.Request) error {
	switch cause := context.Cause(r.Context()); {
	case errors.Is(cause, active.ErrEnded):
		return active.ErrEnded
	case errors.Is(cause, memory.ErrEnded):
		return memory.ErrEnded
	}
	return nil
}
