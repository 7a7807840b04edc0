// Package querier executes PromQL queries: it runs Prometheus' engine on the
// series of one tenant in ingesters and the long-term store, and enforces the
// tenant's limits.
package querier

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/authn/tenant"
	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// Source reads the series of all tenants.
type Source interface {
	// Select returns the matching series, sorted by labels, with the chunks that contain their
	// samples in the range. If some of the samples cannot be read it returns an error, never an
	// incomplete result, unless the request is partial: then Selection.Missing has the days that
	// are left out.
	Select(ctx context.Context, req series.Request) (*series.Selection, error)
	// LabelNames returns the sorted label names of matching series, LabelValues
	// the sorted values of one label.
	LabelNames(ctx context.Context, req series.Request) ([]string, error)
	LabelValues(ctx context.Context, name string, req series.Request) ([]string, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
}

// Queryable is a storage.SampleAndChunkQueryable and storage.ExemplarQueryable
// of a Source. The tenant and its limits are in the context of each call (see
// WithLimits); without them calls fail.
type Queryable struct {
	source Source
	now    func() time.Time
	logger *slog.Logger
}

var (
	_ storage.SampleAndChunkQueryable = (*Queryable)(nil)
	_ storage.ExemplarQueryable       = (*Queryable)(nil)
)

// NewQueryable returns a Queryable of source. Internal errors of the source are logged; tenants get
// a general text.
func NewQueryable(source Source, now func() time.Time, logger *slog.Logger) *Queryable {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Queryable{source: source, now: now, logger: logger}
}

// Querier implements storage.Queryable.
func (q *Queryable) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{reader{q: q, mint: mint, maxt: maxt}}, nil
}

// ChunkQuerier implements storage.ChunkQueryable.
func (q *Queryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return &chunkQuerier{reader{q: q, mint: mint, maxt: maxt, chunks: true}}, nil
}

// reader is the common part of sample and chunk queriers. Like every
// storage.Querier it is not safe for concurrent use.
type reader struct {
	q          *Queryable
	mint, maxt int64
	chunks     bool // whether it belongs to a chunk querier
	selections []*series.Selection
}

// request returns the request for a call, with the time range limited to the
// tenant's retention. ok is false if nothing remains of the range.
func (r *reader) request(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (req series.Request, ok bool, err error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return req, false, err
	}
	mint = r.q.afterRetention(mint, lim)
	within, _ := ctx.Value(rangeKey{}).(series.LabelRange)
	return series.Request{Tenant: id, MinTime: mint, MaxTime: maxt,
		Matchers: slices.Clone(matchers), MaxSeries: lim.MaxQuerySeries, Range: within}, mint <= maxt, nil
}

// afterRetention returns mint or, if that is later, the start of the tenant's retention.
func (q *Queryable) afterRetention(mint int64, lim *limits.Limits) int64 {
	if lim.Retention <= 0 {
		return mint
	}
	return max(mint, q.now().Add(-time.Duration(lim.Retention)).UnixMilli())
}

func (r *reader) selectSeries(
	ctx context.Context, hints *storage.SelectHints, matchers []*labels.Matcher,
) (*series.Selection, series.Request, error) {
	mint, maxt := r.mint, r.maxt
	if hints != nil {
		mint, maxt = max(mint, hints.Start), min(maxt, hints.End)
	}
	req, ok, err := r.request(ctx, mint, maxt, matchers)
	if err != nil || !ok {
		return &series.Selection{}, req, err
	}
	req.Partial = Partial(ctx)
	// The series API and the estimate of a cost need only labels. Remote read may have the same
	// hint, but needs chunks.
	req.LabelsOnly = !r.chunks && hints != nil && hints.Func == "series"
	counts := req.LabelsOnly && (ctx.Value(countingKey{}) != nil || evaluations.Priced(ctx))
	selected := timing.Of(ctx).Measure(timing.Selecting)
	sel, err := r.q.source.Select(ctx, req)
	selected()
	if err != nil {
		return nil, req, err
	}
	r.selections = append(r.selections, sel)
	if !req.Range.All() { // an ingester of an older version returns the series of all ranges
		sel.Series = slices.DeleteFunc(sel.Series, func(s series.WithChunks) bool { return !req.Range.Contains(s.Labels) })
	}
	if e, ok := ctx.Value(evaluationKey{}).(*evaluation); ok {
		e.selected = max(e.selected, int64(len(sel.Series)))
		e.inseparable = e.inseparable || ctx.Value(rangeKey{}) != nil && slices.ContainsFunc(sel.Series, inseparable)
	}
	if counts {
		err = memory.FromContext(ctx).Take(int64(len(sel.Series)) * countedBytes)
	} else {
		err = chargeSelection(ctx, sel.Series, req.LabelsOnly)
	}
	if err != nil {
		return nil, req, err
	}
	return sel, req, nil
}

func inseparable(s series.WithChunks) bool { return shard.Inseparable(s.Labels) }

// countedBytes is the memory in bytes of a series while it is counted, in addition to that
// of the selection.
const countedBytes = 64

type countingKey struct{}

// Counting returns a context for selections whose labels are only counted, and not returned to the
// client; they need the storage.SelectHints.Func "series". This is not a hint, because clients
// choose the hints of a remote read.
func Counting(ctx context.Context) context.Context {
	return context.WithValue(ctx, countingKey{}, true)
}

// LabelValues implements storage.LabelQuerier.
func (r *reader) LabelValues(
	ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	req, ok, err := r.request(ctx, r.mint, r.maxt, matchers)
	if err != nil || !ok {
		return nil, nil, err
	}
	values, err := r.q.source.LabelValues(ctx, name, req)
	return r.finish(ctx, values, hints, err)
}

// LabelNames implements storage.LabelQuerier.
func (r *reader) LabelNames(
	ctx context.Context, hints *storage.LabelHints, matchers ...*labels.Matcher,
) ([]string, annotations.Annotations, error) {
	req, ok, err := r.request(ctx, r.mint, r.maxt, matchers)
	if err != nil || !ok {
		return nil, nil, err
	}
	names, err := r.q.source.LabelNames(ctx, req)
	return r.finish(ctx, names, hints, err)
}

// finish completes LabelNames and LabelValues: it applies the limit of the hints and charges the
// memory.
func (r *reader) finish(
	ctx context.Context, list []string, hints *storage.LabelHints, err error,
) ([]string, annotations.Annotations, error) {
	list = cut(list, hints)
	if err == nil {
		err = chargeStrings(ctx, list)
	}
	return list, nil, r.q.clarify(ctx, err)
}

func cut(list []string, hints *storage.LabelHints) []string {
	if hints != nil && hints.Limit > 0 && len(list) > hints.Limit {
		return list[:hints.Limit]
	}
	return list
}

// Close implements storage.LabelQuerier.
func (r *reader) Close() error {
	for _, s := range r.selections {
		s.Release()
	}
	r.selections = nil
	return nil
}

// ExemplarQuerier implements storage.ExemplarQueryable.
func (q *Queryable) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	return exemplarQuerier{ctx: ctx, q: q, id: id, lim: lim}, nil
}

type exemplarQuerier struct {
	ctx context.Context // Select has no context parameter
	q   *Queryable
	id  tenant.ID
	lim *limits.Limits
}

// Select implements storage.ExemplarQuerier.
func (e exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	found, err := e.q.source.Exemplars(e.ctx, e.id, e.q.afterRetention(start, e.lim), end, matchers)
	if err == nil {
		err = chargeExemplars(e.ctx, found)
	}
	if err != nil {
		return nil, e.q.clarify(e.ctx, err)
	}
	if found == nil {
		found = []exemplar.QueryResult{} // so that the JSON has a list, not null
	}
	return found, nil
}

// clarify converts an error of the source to one from which Prometheus' API derives the right
// response: 422 for an exceeded limit and for a query that was ended, 503 for a timeout, 499 for a
// cancellation. Other errors become storage errors (500). Unless memory is exhausted, they are
// logged, and their text is general, except that of lost samples.
func (q *Queryable) clarify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	if public := explain(ctx, err); public != nil {
		noteFault(ctx, public, err)
		return public
	}
	interrupted := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if interrupted && ctx.Err() == nil { // timed out or canceled in another process
		NoteFault(ctx, err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return promql.ErrQueryTimeout("selecting series")
	case errors.Is(err, context.Canceled):
		return promql.ErrQueryCanceled("selecting series")
	}
	access, noAccess := tenant.FromContext(ctx)
	if noAccess != nil {
		return promql.ErrStorage{Err: noAccess}
	}
	q.logger.Error("reading series failed", "tenant", access.Tenant, "err", err)
	public := errUnreadable
	if errors.Is(err, series.ErrLost) {
		public = series.ErrLost
	}
	answer := promql.ErrStorage{Err: public}
	noteFault(ctx, answer, err)
	return answer
}

// noteFault records in the request's context the first error for which the client
// receives a storage error or the timeout of its tenant's query_timeout.
func noteFault(ctx context.Context, public, err error) {
	var internal promql.ErrStorage
	var timeout timeoutError
	if !errors.As(public, &internal) && !errors.As(public, &timeout) {
		return
	}
	NoteFault(ctx, err)
}

// NoteFault records an error of a read for the request, for example in another process. NoteFaults
// returns the first one.
func NoteFault(ctx context.Context, err error) {
	if noted, ok := ctx.Value(faultKey{}).(*atomic.Pointer[error]); ok {
		noted.CompareAndSwap(nil, &err)
	}
}

// faultKey is the context key of the error that NoteFault records.
type faultKey struct{}

// NoteFaults returns a context for a request, and a function that returns the first error of a read
// for the request, or nil. It is needed because Prometheus' handlers report some of these errors as
// the client's mistakes.
func NoteFaults(ctx context.Context) (context.Context, func() error) {
	var noted atomic.Pointer[error]
	return context.WithValue(ctx, faultKey{}, &noted), func() error {
		if err := noted.Load(); err != nil {
			return *err
		}
		return nil
	}
}

var errUnreadable = errors.New("internal error: series could not be read; try again")
