package frontend

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
)

func exampleEntry() *entry {
	return &entry{
		key:       "key",
		stored:    time.UnixMilli(1_700_000_000_123),
		ingesters: []series.IngesterVersion{{Instance: "a", Epoch: 1 << 63, Changes: 3, Recent: 9}, {Instance: "b", Epoch: 2}},
		recent:    true,
		store:     series.StoreVersion{Deletions: [16]byte{1}, Days: []series.DayVersion{{Day: -1, Digest: [16]byte{2}}, {Day: 20_000}}},
		steps:     split.Range{Start: 1000, End: 61_000},
		cost:      evaluation.Cost{Series: 5, Samples: 6, Read: 7},
		notes:     []evaluation.Note{{Raw: "r", Placed: "r (1:1)", Info: true}, {Raw: "w", Placed: "w"}},
		points: promql.Matrix{
			{Metric: labels.FromStrings("a", "1"), Floats: []promql.FPoint{{T: 1000, F: 1}, {T: 61_000, F: -0.5}}},
			{Metric: labels.EmptyLabels(), Histograms: []promql.HPoint{{T: 31_000, H: tsdbutil.GenerateTestFloatHistogram(3)}}},
		},
	}
}

func TestEntry(t *testing.T) {
	want := exampleEntry()
	raw := want.encode(30_000)
	got, err := decodeEntry("key", raw, 30_000)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, err := decodeEntry("other", raw, 30_000); err == nil {
		t.Error("the entry of another key was decoded")
	}
	for i := range raw {
		if _, err := decodeEntry("key", raw[:i], 30_000); err == nil {
			t.Errorf("an entry cut at byte %d of %d was decoded", i, len(raw))
		}
	}
	long := exampleEntry()
	long.key = strings.Repeat("k", 1<<16)
	if _, err := decodeEntry(long.key, long.encode(30_000), 30_000); err != nil {
		t.Error(err)
	}
}

// FuzzEntry checks that decoding any value of a cache returns an entry or an error.
func FuzzEntry(f *testing.F) {
	f.Add(exampleEntry().encode(30_000))
	f.Add([]byte{entryFormat})
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decodeEntry("key", raw, 30_000)
		if err != nil {
			return
		}
		if e.key != "key" {
			t.Errorf("the decoded entry has the key %q", e.key)
		}
	})
}
