package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

func equal(name, value string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, name, value)
}

func regex(name, value string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchRegexp, name, value)
}

// shape is a query and its parameters.
type shape struct {
	name   string
	days   int
	ms     []*labels.Matcher
	values string // if set, the query returns the values of this label
}

func shapes() []shape {
	small, large, huge := equal("__name__", "small_07"), equal("__name__", "large_3000"), equal("__name__", "huge_20000")
	one := equal("instance", "10.1.0.7:9100")
	return []shape{
		{"named metric (50 series), 1 day", 1, []*labels.Matcher{small}, ""},
		{"named metric (50 series), 7 days", 7, []*labels.Matcher{small}, ""},
		{"regex of the name (11 metrics), 1 day", 1, []*labels.Matcher{regex("__name__", "small_1.+|small_0[0]")}, ""},
		{"regex of the name, 7 days", 7, []*labels.Matcher{regex("__name__", "small_1.+|small_0[0]")}, ""},
		{"no name, label equality, 1 day", 1, []*labels.Matcher{one}, ""},
		{"no name, label equality, 7 days", 7, []*labels.Matcher{one}, ""},
		{"metric of 3,000 series, one of them, 1 day", 1, []*labels.Matcher{large, one}, ""},
		{"metric of 3,000 series, all, 1 day", 1, []*labels.Matcher{large}, ""},
		{"metric of 3,000 series, all, 7 days", 7, []*labels.Matcher{large}, ""},
		{"metric of 20,000 series, one of them, 1 day", 1, []*labels.Matcher{huge, one}, ""},
		{"metric of 20,000 series, all, 1 day", 1, []*labels.Matcher{huge}, ""},
		{"metric of 20,000 series, all, 7 days", 7, []*labels.Matcher{huge}, ""},
		{"label values, no matcher, 1 day", 1, nil, "instance"},
		{"label values, no matcher, 7 days", 7, nil, "instance"},
		{"label values of a metric, 7 days", 7, []*labels.Matcher{small}, "instance"},
		{"label values, matcher without name, 7 days", 7, []*labels.Matcher{equal("zone", "3")}, "instance"},
	}
}

// measureShapes counts the dependent round trips of query shapes. The calls are
// delayed so that concurrent ones overlap.
func measureShapes(ctx context.Context, parent string) (err error) {
	w, err := newWorld(parent, "shapes")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	sizes := map[string]int{"large_3000": 3000, "huge_20000": 20_000}
	for i := range 20 {
		sizes[fmt.Sprintf("small_%02d", i)] = 50
	}
	const t = tenant.ID("shapes")
	r := newRun(metricsOf(sizes), 7, 300_000, 0, 1)
	if err := w.upload(ctx, t, r); err != nil {
		return err
	}
	if _, err := w.compact(ctx); err != nil {
		return err
	}
	fmt.Printf("\nQuery shapes, %d series, 7 days at 5 min, nothing cached; 25 ms per call so that concurrent calls overlap\n\n",
		len(r.series))
	fmt.Println("| query | rounds | row calls | gets | bytes of rows | bytes of objects | series | samples |\n| --- | --- | --- | --- | --- " +
		"| --- | --- | --- |")
	w.count.Delay(25*time.Millisecond, 25*time.Millisecond)
	for _, q := range shapes() {
		if err := w.reopen(); err != nil {
			return err
		}
		w.count.Take()
		n, samples, err := w.ask(ctx, t, q, r.days)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		c := w.count.Take()
		fmt.Printf("| %s | %d | %d | %d | %s | %s | %d | %d |\n",
			q.name, c.Rounds, c.RowCalls, c.Gets, mib(c.RowBytes), mib(c.GotBytes), n, samples)
	}
	return nil
}

// request returns a request for the last days of a run.
func (q *shape) request(t tenant.ID, days int) series.Request {
	end := int64(firstDay+days) * series.DayMillis
	return series.Request{Tenant: t, MinTime: end - int64(q.days)*series.DayMillis, MaxTime: end - 1, Matchers: q.ms}
}

func (w *world) ask(ctx context.Context, t tenant.ID, q shape, days int) (found int, samples int64, err error) {
	if q.values == "" {
		return w.read(ctx, q.request(t, days))
	}
	list, err := w.store.LabelValues(ctx, q.values, q.request(t, days), nil)
	return len(list), 0, err
}
