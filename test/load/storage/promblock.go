package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/palliumhq/pallium/backend/series"
)

// promBlock writes the samples of a run as Prometheus' own block of the same range
// would contain them, with Prometheus' writers: XOR chunks of half an hour (120
// samples at 15 s, as its head cuts them) and its index. It returns the sizes of chunks and index.
// Writing through the head would give the same result and take minutes.
func promBlock(dir string, like *run) (chunkBytes, indexBytes int64, err error) {
	defer os.RemoveAll(dir)
	list := slices.Clone(like.series)
	slices.SortFunc(list, func(a, b oneSeries) int { return labels.Compare(a.labels, b.labels) })
	r := newRun(list, like.days, like.interval, like.jitter, 1)
	cw, err := chunks.NewWriter(filepath.Join(dir, "chunks"))
	if err != nil {
		return 0, 0, err
	}
	iw, err := index.NewWriter(context.Background(), filepath.Join(dir, "index"))
	if err != nil {
		return 0, 0, err
	}
	if err := addSymbols(iw, list); err != nil {
		return 0, 0, err
	}
	for i := range list {
		metas, err := r.metas(i)
		if err != nil {
			return 0, 0, err
		}
		if err := cw.WriteChunks(metas...); err != nil {
			return 0, 0, err
		}
		if err := iw.AddSeries(storage.SeriesRef(i), list[i].labels, metas...); err != nil {
			return 0, 0, err
		}
	}
	if err := cw.Close(); err != nil {
		return 0, 0, err
	}
	if err := iw.Close(); err != nil {
		return 0, 0, err
	}
	if chunkBytes, err = dirBytes(filepath.Join(dir, "chunks")); err != nil {
		return 0, 0, err
	}
	st, err := os.Stat(filepath.Join(dir, "index"))
	if err != nil {
		return 0, 0, err
	}
	return chunkBytes, st.Size(), nil
}

func addSymbols(w *index.Writer, list []oneSeries) error {
	set := map[string]struct{}{}
	for i := range list {
		list[i].labels.Range(func(l labels.Label) { set[l.Name] = struct{}{}; set[l.Value] = struct{}{} })
	}
	all := make([]string, 0, len(set))
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	for _, s := range all {
		if err := w.AddSymbol(s); err != nil {
			return err
		}
	}
	return nil
}

// metas encodes all chunks of a series.
func (r *run) metas(i int) ([]chunks.Meta, error) {
	const start = firstDay * series.DayMillis
	at := r.times(nil, r.series[i].target, start, start+int64(r.days)*series.DayMillis)
	vs := make([]float64, 0, len(at))
	for range at {
		vs = append(vs, r.states[i].sample())
	}
	list, err := encode(at, vs, 0, 0)
	if err != nil {
		return nil, err
	}
	metas := make([]chunks.Meta, 0, len(list))
	for _, c := range list {
		chunk, err := chunkenc.FromData(chunkenc.EncXOR, c.Data)
		if err != nil {
			return nil, err
		}
		metas = append(metas, chunks.Meta{Chunk: chunk, MinTime: c.MinTime, MaxTime: c.MaxTime})
	}
	return metas, nil
}

func dirBytes(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, err
		}
		n += info.Size()
	}
	return n, nil
}
