package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
)

// measureCold reads 10,000 series of a metric over a day and over 30 days with the
// latencies of services in the same region.
func measureCold(ctx context.Context, parent string) error {
	fmt.Println("\nCold queries, a metric of 10,000 series, 5 ms per row call and 30 ms per object call\n\n| query | Select | decoding | " +
		"rounds | row calls | gets | bytes of rows | bytes of objects | peak heap | samples |\n| --- | --- | --- | --- | --- | --- | --- | --- " +
		"| --- | --- |")
	if err := coldOver(ctx, parent, 1, 15_000); err != nil {
		return err
	}
	return coldOver(ctx, parent, 30, 60_000)
}

func coldOver(ctx context.Context, parent string, days int, interval int64) (err error) {
	w, err := newWorld(parent, fmt.Sprintf("cold%d", days))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	const t = tenant.ID("cold")
	r := newRun(metricsOf(map[string]int{"cold": 10_000, "other": 10_000}), days, interval, 0, 1)
	if err := w.upload(ctx, t, r); err != nil {
		return err
	}
	if _, err := w.compact(ctx); err != nil {
		return err
	}
	w.count.Delay(5*time.Millisecond, 30*time.Millisecond)
	all := equal("__name__", "cold")
	for _, q := range []shape{
		{"all of 10,000 series", days, []*labels.Matcher{all}, ""},
		{"190 of the 10,000", days, []*labels.Matcher{all, regex("instance", "10.1.0.1?[0-9][0-9]:9100")}, ""},
	} {
		if err := w.reopen(); err != nil {
			return err
		}
		w.count.Take()
		stop, start := peakHeap(), time.Now()
		selected, samples, err := w.timed(ctx, t, q, days)
		took, peak := time.Since(start), stop()
		if err != nil {
			return err
		}
		c := w.count.Take()
		fmt.Printf("| %s, %d days at %d s | %s | %s | %d | %d | %d | %s | %s | %s | %d |\n", q.name, days, interval/1000,
			selected.Round(time.Millisecond), (took - selected).Round(time.Millisecond), c.Rounds, c.RowCalls, c.Gets, mib(c.RowBytes),
			mib(c.GotBytes), mib(peak), samples)
	}
	return nil
}

// timed is ask that also returns the time until Select returns, before samples are
// decoded.
func (w *world) timed(ctx context.Context, t tenant.ID, q shape, days int) (selected time.Duration, samples int64, err error) {
	start := time.Now()
	sel, err := w.store.Select(ctx, q.request(t, days), nil)
	if err != nil {
		return 0, 0, err
	}
	defer sel.Release()
	selected = time.Since(start)
	samples, err = drain(sel)
	return selected, samples, err
}
