package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// decodeTimes is the CPU time of the parts of reading a tenant.
type decodeTimes struct {
	selecting, columns, iterators time.Duration
	samples                       int64
}

// measureDecode reads everything twice, metric by metric so that it fits into
// memory. Columns are decoded the way an engine that takes arrays would, and then
// anew through iterators, one sample at a time.
func measureDecode(ctx context.Context, w *world, t tenant.ID, r *run) error {
	names, err := w.store.LabelValues(ctx, "__name__", everything(t), nil)
	if err != nil {
		return err
	}
	for _, pass := range []string{"first read", "second read"} {
		var d decodeTimes
		for _, name := range names {
			if err := d.metric(ctx, w, everything(t, equal("__name__", name))); err != nil {
				return err
			}
		}
		if d.samples != r.samples {
			return fmt.Errorf("read %d samples of %d", d.samples, r.samples)
		}
		rate := func(of time.Duration) float64 { return float64(d.samples) / of.Seconds() / 1e6 }
		line(t, "decoding columns, M samples per CPU second, "+pass, ">= 100", "%.1f", rate(d.columns))
		line(t, "draining iterators, "+pass, ">= 100", "%.1f", rate(d.iterators))
		line(t, "Select and draining iterators, "+pass, ">= 100", "%.1f (Select %.2f s, iterators %.2f s CPU, %d queries)", rate(d.selecting+d.iterators), d.selecting.Seconds(), d.iterators.Seconds(), len(names))
	}
	return nil
}

func (d *decodeTimes) metric(ctx context.Context, w *world, req series.Request) error {
	var sel *series.Selection
	cpu, err := onOneCore(func() (err error) {
		sel, err = w.store.Select(ctx, req, nil)
		return err
	})
	if err != nil {
		return err
	}
	defer sel.Release()
	d.selecting += cpu
	if cpu, err = onOneCore(func() error { return drain(sel, &d.samples) }); err != nil {
		return err
	}
	d.iterators += cpu
	cpu, err = onOneCore(func() error { return appendAll(sel) })
	d.columns += cpu
	return err
}

func drain(sel *series.Selection, samples *int64) error {
	var it chunkenc.Iterator
	var sum float64
	for _, s := range sel.Series {
		it = series.Iterator(s.Chunks, it)
		for it.Next() != chunkenc.ValNone {
			_, v := it.At()
			sum += v
			*samples++
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return nil
}

func appendAll(sel *series.Selection) error {
	var ts []int64
	var vs []float64
	for _, s := range sel.Series {
		for _, c := range s.Chunks {
			if c.Column == nil {
				return fmt.Errorf("series %s: a compacted chunk of floats is no column", s.Labels)
			}
			var err error
			if ts, vs, err = c.Column.AppendTo(ts[:0], vs[:0]); err != nil {
				return err
			}
		}
	}
	return nil
}
