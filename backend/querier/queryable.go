// Package querier answers PromQL: it gives Prometheus' own engine a view of the
// backend's series that is limited to one tenant, to what its label policy lets
// it see, and to what its limits allow.
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
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Source has the series of all tenants.
type Source interface {
	// Select returns matching series, sorted by labels, with the chunks that hold
	// their samples in the range. A part that cannot be read is an error, never a shorter answer.
	Select(ctx context.Context, req series.Request) (*series.Selection, error)
	// LabelNames and LabelValues return sorted names, or values of one name.
	LabelNames(ctx context.Context, req series.Request) ([]string, error)
	LabelValues(ctx context.Context, name string, req series.Request) ([]string, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
}

// Queryable is a storage.SampleAndChunkQueryable and ExemplarQueryable over a
// source. The tenant and its limits come with the context of each call (see
// WithLimits); without them nothing is answered.
type Queryable struct {
	source Source
	now    func() time.Time
	logger *slog.Logger
}

var (
	_ storage.SampleAndChunkQueryable = (*Queryable)(nil)
	_ storage.ExemplarQueryable       = (*Queryable)(nil)
)

// NewQueryable returns a Queryable over the source. What goes wrong in the
// source is logged, not told to tenants.
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

// reader is what sample and chunk queriers share. Like every storage.Querier it
// is used by one goroutine at a time.
type reader struct {
	q          *Queryable
	mint, maxt int64
	chunks     bool // of a chunk querier
	selections []*series.Selection
}

// request makes the request of a call, with the range cut to what the tenant's
// retention leaves. ok is false when nothing is left.
func (r *reader) request(ctx context.Context, mint, maxt int64, matchers []*labels.Matcher) (req series.Request, ok bool, err error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return req, false, err
	}
	mint = r.q.kept(mint, lim)
	return series.Request{Tenant: id, MinTime: mint, MaxTime: maxt,
		Matchers: slices.Clone(matchers), MaxSeries: lim.MaxQuerySeries}, mint <= maxt, nil
}

// kept is mint, or what the tenant's retention leaves of the time after it.
func (q *Queryable) kept(mint int64, lim *limits.Limits) int64 {
	if lim.Retention <= 0 {
		return mint
	}
	return max(mint, q.now().Add(-time.Duration(lim.Retention)).UnixMilli())
}

func (r *reader) selectSeries(
	ctx context.Context, hints *storage.SelectHints, matchers []*labels.Matcher,
) ([]series.WithChunks, series.Request, error) {
	mint, maxt := r.mint, r.maxt
	if hints != nil {
		mint, maxt = max(mint, hints.Start), min(maxt, hints.End)
	}
	req, ok, err := r.request(ctx, mint, maxt, matchers)
	if err != nil || !ok {
		return nil, req, err
	}
	// The series API reads labels and stops early at its own limit. Remote read
	// passes the hint on, yet it sends series by their chunks.
	req.LabelsOnly = !r.chunks && hints != nil && hints.Func == "series"
	sel, err := r.q.source.Select(ctx, req)
	if err != nil {
		return nil, req, err
	}
	r.selections = append(r.selections, sel)
	if err := selected(ctx, sel.Series, req.LabelsOnly); err != nil {
		return nil, req, err
	}
	return sel.Series, req, nil
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
	return r.told(ctx, values, hints, err)
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
	return r.told(ctx, names, hints, err)
}

// told is the answer of a list of strings.
func (r *reader) told(ctx context.Context, list []string, hints *storage.LabelHints, err error) ([]string, annotations.Annotations, error) {
	list = cut(list, hints)
	if err == nil {
		err = texts(ctx, list)
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
	ctx context.Context // Select has none of its own
	q   *Queryable
	id  tenant.ID
	lim *limits.Limits
}

// Select implements storage.ExemplarQuerier.
func (e exemplarQuerier) Select(start, end int64, matchers ...[]*labels.Matcher) ([]exemplar.QueryResult, error) {
	found, err := e.q.source.Exemplars(e.ctx, e.id, e.q.kept(start, e.lim), end, matchers)
	if err == nil {
		err = chargeExemplars(e.ctx, found)
	}
	if err != nil {
		return nil, e.q.clarify(e.ctx, err)
	}
	if found == nil {
		found = []exemplar.QueryResult{} // the answer is a list, not null
	}
	return found, nil
}

// clarify prepares an error of the source for Prometheus' API: a limit is the
// tenant's to mend and told as it is (422), a query that ended or was ended is
// that (503, 499), anything else is ours (500), and its text for the log.
func (q *Queryable) clarify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	if told := explain(ctx, err); told != nil {
		noteFault(ctx, told, err)
		return told
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
	q.logger.Error("series could not be read", "tenant", access.Tenant, "err", err)
	told := errUnreadable
	if errors.Is(err, series.ErrLost) {
		told = series.ErrLost
	}
	answer := promql.ErrStorage{Err: told}
	noteFault(ctx, answer, err)
	return answer
}

// noteFault notes what is not the request's fault in its context: the first error
// that was told as one of the storage.
func noteFault(ctx context.Context, told, err error) {
	var ours promql.ErrStorage
	if noted, ok := ctx.Value(faultKey{}).(*atomic.Pointer[error]); ok && errors.As(told, &ours) {
		noted.CompareAndSwap(nil, &err)
	}
}

// faultKey is that of a request's note in its context.
type faultKey struct{}

// NoteFaults returns a context for a request, and a function that tells why
// something that the request needed could not be read; nil: everything could. Of
// such errors Prometheus' handlers answer some as if the request were wrong.
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
