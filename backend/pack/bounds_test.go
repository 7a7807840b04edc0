package pack

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// TestRows writes series that just fit a row of a compacted page, and series
// with one more sample or chunk, and reads them back: the larger ones have two
// rows. One has both floats and histograms.
func TestRows(t *testing.T) {
	start := tableDay * series.DayMillis
	floats := func(n int) column.Series {
		s := column.Series{T: make([]int64, n), V: make([]float64, n)}
		for i := range n {
			s.T[i], s.V[i] = start+int64(i)*10, float64(i%50)
		}
		return s
	}
	one := encode(t, []series.Sample{{T: start, H: testHistogram(1)}})[0]
	chunks := func(n, size int) column.Series {
		s := column.Series{}
		for i := range n {
			c := one
			c.MinTime, c.MaxTime = start+int64(i)*700, start+int64(i)*700
			if size > 0 {
				c.Data = append(append([]byte{}, one.Data...), make([]byte, size-len(one.Data))...)
			}
			s.Histograms = append(s.Histograms, c)
		}
		return s
	}
	for name, c := range map[string]struct {
		s    column.Series
		rows int
	}{
		"floats":                {floats(maxRowFloats), 1},
		"floats, one more":      {floats(maxRowFloats + 1), 2},
		"chunks":                {chunks(maxRowChunks, 0), 1},
		"chunks, one more":      {chunks(maxRowChunks+1, 0), 2},
		"bytes":                 {chunks(32, maxRowHistograms/32), 1},
		"bytes, one chunk more": {chunks(33, maxRowHistograms/32), 2},
		"two rows of floats, and one histogram chunk too many for a row": {column.Series{T: floats(2*maxRowFloats + 1).T[:2*maxRowFloats], V: make([]float64, 2*maxRowFloats), Histograms: chunks(33, maxRowHistograms/32).Histograms}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.pk")
			list := []tableSeries{{labels: labels.FromStrings("__name__", "a"), Series: floats(3)}, {labels: labels.FromStrings("__name__", "m"), Series: c.s},
				{labels: labels.FromStrings("__name__", "m", "z", "z"), Series: floats(5)}}
			info := writeTable(t, path, list, nil)
			if got := info.Sections[0].Series - 2; got != c.rows {
				t.Errorf("rows = %d, want %d", got, c.rows)
			}
			r := openTable(t, path)
			if err := r.Verify(); err != nil {
				t.Fatal(err)
			}
			rows, floats, histograms := 0, 0, 0
			last := int64(math.MinInt64)
			sc := r.Scan(0)
			for sc.Next(context.Background()) {
				if !labels.Equal(sc.Labels(), list[1].labels) {
					continue
				}
				rows++
				for _, chunk := range sc.Chunks() {
					if chunk.Column == nil {
						histograms++
						continue
					}
					ts, _, err := chunk.Column.AppendTo(nil, nil)
					if err != nil || ts[0] <= last {
						t.Fatalf("row %d starts at %d, not after %d; error %v", rows, ts[0], last, err)
					}
					floats, last = floats+len(ts), ts[len(ts)-1]
				}
			}
			if sc.Err() != nil || rows != c.rows || floats != len(c.s.T) || histograms != len(c.s.Histograms) {
				t.Errorf("%d rows with %d floats and %d histogram chunks, want %d, %d and %d; %v", rows, floats, histograms, c.rows, len(c.s.T), len(c.s.Histograms), sc.Err())
			}
		})
	}
}

// TestRowsTwice checks that a series in two rows is corruption if the first row is
// not full.
func TestRowsTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.pk")
	w, err := CreateTable(path, Options{ID: ulid.Make()}, "acme", tableDay, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.addRow("m", labels.FromStrings("__name__", "m"), &column.Series{T: []int64{tableDay * series.DayMillis}, V: []float64{1}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openTable(t, path).Verify(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Verify = %v, want ErrCorrupt", err)
	}
}

// TestFramesOfHugeSeries checks that a series with twice the chunks that pushes can
// add in a day (a crash may seal them twice) refers to at most maxPageFrames frames,
// for small, large and the largest chunks.
func TestFramesOfHugeSeries(t *testing.T) {
	data := make([]byte, series.MaxChunkBytes)
	for _, size := range []int{100, frameTarget/2 + 1, frameTarget, series.MaxChunkBytes/2 + 1, series.MaxChunkBytes} {
		chunks := make([]series.Chunk, windowsOfDay*2*series.MaxWindowChunks)
		for i := range chunks {
			chunks[i].Data = data[:size]
		}
		target, frames, used := frameSize(chunks), 1, 0
		for i := range chunks {
			if used > 0 && used+len(chunks[i].Data) > target {
				frames, used = frames+1, 0
			}
			used += len(chunks[i].Data)
		}
		if frames > maxPageFrames || target > maxFrame {
			t.Errorf("%d chunks of %d bytes: %d frames of %d bytes, want at most %d frames of at most %d bytes",
				len(chunks), size, frames, target, maxPageFrames, maxFrame)
		}
	}
	if got := frameSize([]series.Chunk{{Data: data}}); got != frameTarget {
		t.Errorf("frameSize of a series with one chunk of the maximum size = %d bytes, want %d", got, frameTarget)
	}
}
