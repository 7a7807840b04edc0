package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// decodeTimes contains the CPU time of each part of reading a tenant.
type decodeTimes struct {
	selecting, decoding time.Duration
	samples             int64
}

// measureDecode reads everything, metric by metric so that it fits into memory: once
// as arrays, as a columnar engine would, and again with empty caches through
// iterators, one sample at a time. Frames are decompressed during decoding, so both
// times include decompression.
func measureDecode(ctx context.Context, w *world, t tenant.ID, r *run) error {
	names, err := w.store.LabelValues(ctx, "__name__", everything(t), nil)
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name   string
		decode func(*series.Selection) (int64, error)
	}{{"as columns", appendAll}, {"by iterators", drain}} {
		if err := w.reopen(); err != nil {
			return err
		}
		var d decodeTimes
		for _, name := range names {
			if err := d.metric(ctx, w, everything(t, equal("__name__", name)), way.decode); err != nil {
				return err
			}
		}
		if d.samples != r.samples {
			return fmt.Errorf("read %d samples, want %d", d.samples, r.samples)
		}
		rate := func(of time.Duration) float64 { return float64(d.samples) / of.Seconds() / 1e6 }
		line(t, "decoding "+way.name+", M samples per CPU second", ">= 100",
			"%.1f; including Select %.1f (CPU: %d Selects %.2f s in total, decoding %.2f s)", rate(d.decoding), rate(d.selecting+d.decoding),
			len(names), d.selecting.Seconds(), d.decoding.Seconds())
	}
	return nil
}

func (d *decodeTimes) metric(ctx context.Context, w *world, req series.Request, decode func(*series.Selection) (int64, error)) error {
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
	cpu, err = onOneCore(func() error {
		n, err := decode(sel)
		d.samples += n
		return err
	})
	d.decoding += cpu
	return err
}

func drain(sel *series.Selection) (samples int64, err error) {
	var it chunkenc.Iterator
	for _, s := range sel.Series {
		it = series.Iterator(s.Chunks, it)
		for it.Next() != chunkenc.ValNone {
			if at, _ := it.At(); at < 0 {
				return 0, fmt.Errorf("series %s: sample before 1970", s.Labels)
			}
			samples++
		}
		if err := it.Err(); err != nil {
			return 0, err
		}
	}
	return samples, nil
}

func appendAll(sel *series.Selection) (samples int64, err error) {
	var ts []int64
	var vs []float64
	for _, s := range sel.Series {
		for _, c := range s.Chunks {
			if c.Column == nil {
				return 0, fmt.Errorf("series %s: a compacted chunk of floats is not a column", s.Labels)
			}
			if ts, vs, err = c.Column.AppendTo(ts[:0], vs[:0]); err != nil {
				return 0, err
			}
			samples += int64(len(ts))
		}
	}
	return samples, nil
}
