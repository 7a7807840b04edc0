package pack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// TestPageCuts checks the number of pages of a section, and that its series are read
// back.
func TestPageCuts(t *testing.T) {
	start := testDay * series.DayMillis
	one := floats(t, start, 1000, 2, func(i int) float64 { return float64(i) })
	tests := []struct {
		name   string
		series int
		labels func(i int) labels.Labels
		pages  int
	}{
		{"series", maxPageSeries*2 + 1, func(i int) labels.Labels {
			return labels.FromStrings("__name__", "up", "i", fmt.Sprintf("%05d", i))
		}, 3},
		{"many tiny metrics", maxPageSeries, func(i int) labels.Labels {
			return labels.FromStrings("__name__", fmt.Sprintf("m%05d", i))
		}, 1},
		{"columns", 1000, func(i int) labels.Labels {
			return labels.FromStrings("__name__", fmt.Sprintf("m%05d", i), fmt.Sprintf("l%d", i), "x")
		}, 2},
		{"long values", 24, func(i int) labels.Labels {
			return labels.FromStrings("__name__", "up", "i", fmt.Sprintf("%05d", i)+strings.Repeat("y", targetDictionary/8))
		}, 4},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := part{tenant: "acme", day: testDay}
			for i := range tc.series {
				p.series = append(p.series, series.WithChunks{Labels: tc.labels(i), Chunks: one})
			}
			path := filepath.Join(t.TempDir(), "cuts.pk")
			writeParts(t, path, Options{ID: testID}, []part{p})
			r := openPath(t, path)
			if got := len(r.dir.pages); got != tc.pages {
				t.Errorf("pages = %d, want %d", got, tc.pages)
			}
			if err := r.Verify(); err != nil {
				t.Fatal(err)
			}
			sameSeries(t, readSelect(t, r, "acme", start, start+1), expect([]part{p}, "acme", start, start+1, nil))
			for _, i := range []int{0, tc.series / 2, tc.series - 1} {
				ls := tc.labels(i)
				ms := []*labels.Matcher{eq("__name__", ls.Get("__name__")), eq("i", ls.Get("i"))}
				sameSeries(t, readSelect(t, r, "acme", start, start+1, ms...), []series.WithChunks{{Labels: ls, Chunks: one}})
			}
		})
	}
}

func TestWriterRejects(t *testing.T) {
	start := testDay * series.DayMillis
	good := floats(t, start, 1000, 5, func(i int) float64 { return 1 })
	up := labels.FromStrings("__name__", "up")
	change := func(f func(c *series.Chunk)) []series.Chunk {
		c := slices.Clone(good)
		f(&c[0])
		return c
	}
	add := func(ls labels.Labels, chunks []series.Chunk) func(w *Writer) error {
		return func(w *Writer) error {
			if err := w.StartSection("acme", testDay, nil); err != nil {
				return err
			}
			return w.Add(ls, chunks)
		}
	}
	tests := []struct {
		name, want string
		do         func(w *Writer) error
	}{
		{"no section", "call StartSection", func(w *Writer) error { return w.Add(up, good) }},
		{"tenant", "tenant ID", func(w *Writer) error { return w.StartSection("a/b", 1, nil) }},
		{"day", "out of range", func(w *Writer) error { return w.StartSection("a", -1, nil) }},
		{"no chunks", "no chunks", add(up, nil)},
		{"empty value", "neither may be empty", add(labels.FromStrings("__name__", "up", "a", ""), good)},
		{"other day", "not within the section's day", add(up, change(func(c *series.Chunk) { c.MaxTime += series.DayMillis }))},
		{"backwards", "not within", add(up, change(func(c *series.Chunk) { c.MaxTime = c.MinTime - 1 }))},
		{"encoding", "cannot be stored", add(up, change(func(c *series.Chunk) { c.Encoding = chunkenc.EncXOR2 }))},
		{"samples", "does not have the expected", add(up, change(func(c *series.Chunk) { c.Samples++ }))},
		{"overlap", "does not come after", add(up, append(slices.Clone(good), good...))},
		{"twice", "added before", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.Add(up, good))
		}},
		{"order", "must ascend", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.Add(labels.FromStrings("__name__", "aa"), good))
		}},
		{"sections", "must ascend", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.StartSection("acme", testDay, nil))
		}},
		{"empty section", "no series", func(w *Writer) error {
			return errors.Join(w.StartSection("a", 1, nil), w.StartSection("b", 1, nil))
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := Create(filepath.Join(dir, "x.pk"), Options{ID: testID})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.do(w); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want %q", err, tc.want)
			}
			if _, err := w.Close(); err == nil || !strings.Contains(err.Error(), "unusable") {
				t.Fatalf("Close after an error = %v", err)
			}
			if err := w.StartSection("z", testDay, nil); err == nil {
				t.Fatal("StartSection after an error succeeded")
			}
			if err := w.Abort(); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Fatalf("files left after Abort: %v", left)
			}
		})
	}
}

func TestCrashLeavesTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "1", "x.pk")
	w, err := Create(path, Options{ID: testID})
	if err != nil {
		t.Fatal(err)
	}
	parts := smallParts(t)
	if err := errors.Join(w.StartSection("acme", testDay, nil), w.Add(parts[0].series[0].Labels, parts[0].series[0].Chunks), w.out.buf.Flush()); err != nil {
		t.Fatal(err)
	}
	// The process dies here. The file that it leaves is not a pack.
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("an unfinished pack has its real name: %v", err)
	}
	if _, err := Create(path, Options{ID: testID}); !errors.Is(err, os.ErrExist) {
		t.Fatalf("Create of a pack that is being written: error %v", err)
	}
	src, err := OpenFile(path + TemporarySuffix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(src); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("Open of an unfinished pack: error %v", err)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.tmp")
	finished := filepath.Join(dir, "2.pk")
	writeParts(t, finished, Options{ID: testID}, parts)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removed, err := RemoveTemporary(dir)
	if err != nil || !slices.Equal(removed, []string{path + TemporarySuffix}) {
		t.Fatalf("removed %v, %v", removed, err)
	}
	for _, p := range []string{other, finished} {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Create(finished, Options{ID: testID}); !errors.Is(err, os.ErrExist) {
		t.Fatalf("Create of an existing pack: error %v", err)
	}
	for path, want := range map[string]os.FileMode{finished: 0o600, filepath.Dir(path): 0o700} { // the owner's only
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, st.Mode(), err, want)
		}
	}
}
