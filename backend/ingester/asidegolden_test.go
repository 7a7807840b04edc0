package ingester

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

var update = flag.Bool("update", false, "rewrite the golden file of a series set aside")

// TestAsideGolden checks that files of earlier versions can still be read. Golden
// files may only be added.
func TestAsideGolden(t *testing.T) {
	const day = 20_000
	start := day * series.DayMillis
	samples := []series.Sample{{T: start + 5, V: 1.5}, {T: start + 6, H: tsdbutil.GenerateTestHistogram(2)}, {T: start + 7, FH: tsdbutil.GenerateTestFloatHistogram(3)}}
	kept := make([]series.Sample, len(samples))
	copy(kept, samples)
	kept[1].H, kept[2].FH = samples[1].H.Copy(), samples[2].FH.Copy()
	chunks, err := series.Encode(samples)
	if err != nil {
		t.Fatal(err)
	}
	h := asideHeader{tenant: "team-a", ingester: "ingester-1", window: store.Window{Day: day}, deletion: 3, since: start + 9, reason: "label \"empty\" has no value", labels: impossible("bad")}
	name := asideName(h.tenant, h.window, h.labels) + asideSuffix
	path := filepath.Join("testdata", "aside", name)
	data := encodeAside(&h, chunks)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, data) {
		t.Error("the encoding changed, which requires a new format")
	}
	got, had, err := readAside(path, func(*asideHeader) bool { return true })
	if err != nil || got.tenant != h.tenant || got.window != h.window || got.deletion != 3 || got.since != h.since || got.reason != h.reason || got.samples != 3 || got.minTime != start+5 || got.maxTime != start+7 {
		t.Fatalf("header of the golden file: %+v, error %v", got, err)
	}
	b := newBench(t)
	if err := os.CopyFS(filepath.Join(b.dir, "aside"), os.DirFS(filepath.Join("testdata", "aside"))); err != nil {
		t.Fatal(err)
	}
	b.crash()
	same(t, "opened", b.read("team-a"), map[string][]series.Sample{h.labels.String(): kept})
	if len(had) != len(chunks) {
		t.Errorf("%d chunks, want %d", len(had), len(chunks))
	}
}
