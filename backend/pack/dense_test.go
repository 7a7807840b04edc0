package pack

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// TestDense checks that readers accept packs of constant series, which compress
// to less than a byte per series and almost nothing per sample: counts in a
// pack may exceed its size in bytes.
func TestDense(t *testing.T) {
	const day = 20_000
	for name, tc := range map[string]struct{ series, samples int }{
		"series":  {5 * maxPageSeries, 1},
		"samples": {maxPageSeries, 86_400},
	} {
		t.Run(name, func(t *testing.T) {
			s := &column.Series{T: make([]int64, tc.samples), V: make([]float64, tc.samples)}
			for i := range s.T {
				s.T[i], s.V[i] = day*series.DayMillis+int64(i)*1000, 1
			}
			path := filepath.Join(t.TempDir(), "dense"+Suffix)
			tw, err := CreateTable(path, Options{ID: ulid.ULID{1}, Source: "test"}, "a", day, func(TablePage) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			for i := range tc.series {
				if err := tw.Add(labels.FromStrings("__name__", "m", "i", fmt.Sprintf("%06d", i)), s); err != nil {
					t.Fatal(err)
				}
			}
			if err := tw.Finish(); err != nil {
				t.Fatal(err)
			}
			info, err := tw.Close()
			if err != nil {
				t.Fatal(err)
			}
			r := openTable(t, path)
			if err := r.Verify(); err != nil {
				t.Fatal(err)
			}
			sec := r.Info().Sections[0]
			if sec.Series != tc.series || sec.Samples != int64(tc.series*tc.samples) {
				t.Errorf("read %d series and %d samples, want %d and %d", sec.Series, sec.Samples, tc.series, tc.series*tc.samples)
			}
			if info.Size >= sec.Samples || name == "samples" && info.Size*maxChunkCount >= sec.Samples {
				t.Errorf("pack has %d bytes, too many for this test to be meaningful", info.Size)
			}
		})
	}
}
