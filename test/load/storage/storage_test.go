package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/palliumhq/pallium/backend/series"
)

// TestPromBlock compares the size of the block that is written without Prometheus'
// head with one written through the head. The head aligns chunks of 120 samples to the
// first sample, so it has one more chunk per day.
func TestPromBlock(t *testing.T) {
	list := nodeExporter(1060)
	r := newRun(list, 1, 15_000, 0, 1)
	chunkBytes, indexBytes, err := promBlock(filepath.Join(t.TempDir(), "ours"), r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), dir, 2*series.DayMillis)
	if err != nil {
		t.Fatal(err)
	}
	const start = firstDay * series.DayMillis
	for i := range list {
		app := w.Appender(context.Background())
		var ref storage.SeriesRef
		for _, at := range r.times(nil, list[i].target, start, start+series.DayMillis) {
			if ref, err = app.Append(ref, list[i].labels, at, r.states[i].sample()); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	id, err := w.Flush(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := dirBytes(filepath.Join(dir, id.String(), "chunks"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.Stat(filepath.Join(dir, id.String(), "index"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("chunks %d, through the head %d; index %d, through the head %d", chunkBytes, theirs, indexBytes, index.Size())
	for _, c := range [][2]int64{{chunkBytes, theirs}, {indexBytes, index.Size()}} {
		if ratio := float64(c[0]) / float64(c[1]); ratio < 0.95 || ratio > 1.05 {
			t.Errorf("%d bytes, %d bytes through the head; want a difference of at most 5%%", c[0], c[1])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestGenerator checks that the generated mix has the documented share of constant series, and that
// one of the ingesters lacks samples of about 2% of the series.
func TestGenerator(t *testing.T) {
	for _, kind := range []string{"node", "kubernetes", "containers", "random"} {
		list, err := generate(kind, 5000)
		if err != nil {
			t.Fatal(err)
		}
		still := 0
		for i := range list {
			if list[i].kind == constant {
				still++
			}
		}
		if part := float64(still) / float64(len(list)); part < 0.55 || part > 0.65 {
			t.Errorf("%s: %.2f are constant", kind, part)
		}
		r := newRun(list, 1, 15_000, 5, 3)
		samples, short := make([]int, len(list)), 0
		err = r.window(firstDay*series.DayMillis, func(g, i int, chunks []series.Chunk) error {
			n := 0
			for k := range chunks {
				n += chunks[k].Samples
			}
			if n < 480 {
				short++
			}
			samples[i] = max(samples[i], n)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if part := float64(short) / float64(len(list)); part < 0.01 || part > 0.03 {
			t.Errorf("%s: %.3f have a gap", kind, part)
		}
		for i, n := range samples {
			if n != 480 {
				t.Fatalf("%s: series %s has %d samples in every copy", kind, list[i].labels, n)
			}
		}
	}
}
