package querier

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// partialKey is the context key of WithPartial.
type partialKey struct{}

// WithPartial returns a context for a query that leaves out days of the long-term store that cannot
// be read, with a warning for each, instead of failing. The result must not be cached, and must not
// be used for rules.
func WithPartial(ctx context.Context) context.Context {
	return context.WithValue(ctx, partialKey{}, true)
}

// Partial reports whether ctx comes from WithPartial.
func Partial(ctx context.Context) bool { return ctx.Value(partialKey{}) != nil }

// Limits of a partial read.
const (
	mostMissing = 16 // maximum number of days that a selection leaves out; with more the query fails
	daysAtOnce  = 8  // maximum number of ranges of days that are read concurrently
)

// days is a range of UTC days.
type days struct{ first, last int64 }

// halves divides the range into two.
func (d days) halves() []days {
	middle := d.first + (d.last-d.first)/2
	return []days{{d.first, middle}, {middle + 1, d.last}}
}

// of returns the request with its time range limited to the days.
func (d days) of(req series.Request) series.Request {
	req.MinTime = max(req.MinTime, d.first*series.DayMillis)
	req.MaxTime = min(req.MaxTime, (d.last+1)*series.DayMillis-1)
	return req
}

// selectLong reads the long-term store. For a partial request it leaves out the days that cannot
// be read.
func (b *both) selectLong(ctx context.Context, req series.Request, covered store.Covered) (*series.Selection, error) {
	sel, err := b.long.Select(ctx, req, covered)
	if err == nil || !req.Partial || !leftOut(ctx, err) {
		return sel, err
	}
	first, last, ok := store.DayRange(req.MinTime, req.MaxTime)
	if !ok {
		return nil, err
	}
	if first == last {
		return &series.Selection{Missing: []series.MissingDay{{Day: first, Err: err}}}, nil
	}
	p := &partialRead{b: b, req: req, covered: covered, out: &series.Selection{}}
	if err := p.run(ctx, days{first, last}.halves()); err != nil {
		p.out.Release()
		return nil, err
	}
	return p.out, nil
}

// leftOut reports whether a partial request leaves out the days whose read failed with err. The end
// of the request, a canceled read, exceeded limits, a lack of memory and lost samples are errors of
// the whole request.
func leftOut(ctx context.Context, err error) bool {
	return ctx.Err() == nil && explain(ctx, err) == nil && !errors.Is(err, series.ErrLost) && !errors.Is(err, context.Canceled)
}

// partialRead reads ranges of days. It halves a range that cannot be read, down to single days.
type partialRead struct {
	b       *both
	req     series.Request
	covered store.Covered
	out     *series.Selection
}

// run reads ranges of days, and halves of those that fail, down to single days.
func (p *partialRead) run(ctx context.Context, left []days) error {
	for len(left) > 0 {
		batch := left[max(0, len(left)-daysAtOnce):]
		left = left[: len(left)-len(batch) : len(left)-len(batch)]
		got, errs := make([]*series.Selection, len(batch)), make([]error, len(batch))
		var wg sync.WaitGroup
		for i, d := range batch {
			wg.Go(func() { got[i], errs[i] = p.b.long.Select(ctx, d.of(p.req), p.covered) })
		}
		wg.Wait()
		for _, sel := range got {
			if sel != nil {
				p.out.Hold(sel.Release)
			}
		}
		for i, d := range batch {
			halves, err := p.take(ctx, d, got[i], errs[i])
			if err != nil {
				return err
			}
			left = append(left, halves...)
		}
	}
	return nil
}

// take adds the result of a range of days. It returns the halves of a range that failed.
func (p *partialRead) take(ctx context.Context, d days, sel *series.Selection, err error) ([]days, error) {
	switch {
	case err == nil:
		p.out.Series, err = series.Merge(p.out.Series, sel.Series, p.req.MaxSeries)
		return nil, err
	case !leftOut(ctx, err):
		return nil, err
	case d.first < d.last:
		return d.halves(), nil
	case len(p.out.Missing) == mostMissing:
		return nil, fmt.Errorf("more than %d days of the long-term store cannot be read: %w", mostMissing, err)
	}
	p.out.Missing = append(p.out.Missing, series.MissingDay{Day: d.first, Err: err})
	return nil, nil
}

// warnings logs why each of the missing days could not be read, and returns a warning for each.
func (q *Queryable) warnings(req *series.Request, missing []series.MissingDay) annotations.Annotations {
	var out annotations.Annotations
	for _, m := range missing {
		day := series.DateOf(m.Day)
		q.logger.Warn("partial response: a day of the long-term store could not be read", "tenant", req.Tenant, "day", day, "err", m.Err)
		out.Add(fmt.Errorf("partial response: samples of %s (UTC) in the long-term store could not be read and are missing", day))
	}
	return out
}
