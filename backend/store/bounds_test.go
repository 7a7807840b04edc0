package store

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// TestMetadataOfPack checks that, of the metadata up to a pack's last metric, the entries
// closest to that metric are kept, and no more than fit into the names cell.
func TestMetadataOfPack(t *testing.T) {
	help := string(make([]byte, pack.MaxMetadataText))
	var list []series.MetricMetadata
	for i := range 2000 {
		list = append(list, series.MetricMetadata{Metric: fmt.Sprintf("gone%04d", i), Metadata: metadata.Metadata{Help: help}})
	}
	list = append(list, series.MetricMetadata{Metric: "m", Metadata: metadata.Metadata{Help: "own"}}, series.MetricMetadata{Metric: "n"})
	s := &Store{}
	s.metrics = newMetrics(nil, &Store{pages: newCache[pageKey](1, (*pack.Page).Bytes), frames: newCache[blockKey](1, func([]byte) int64 { return 0 }), tables: newCache[blockKey](1, func(tableEntry) int64 { return 0 })})
	codec, err := schema.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	names := index.NewBuilder(codec, schema.Version{Generation: 1}, 0, false)
	for i := 0; names.NamesSize() < 1<<20; i++ {
		if err := names.AddPage(pack.TablePage{Metric: fmt.Sprintf("a%04d%1000s", i, "")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := names.AddPage(pack.TablePage{Metric: "m"}); err != nil {
		t.Fatal(err)
	}
	g := &Generation{s: s, metadata: list, index: names}
	got := g.metadataFor(false)
	size := g.index.NamesSize()
	for i := range got {
		size += pack.MetadataSize(&got[i])
	}
	if n := len(got); n == 0 || got[n-1].Metric != "m" || size > index.MaxCell || size < index.MaxCell/2 {
		t.Errorf("%d entries and %d bytes of names, want those next to the last metric and nearly as many as fit", n, size)
	}
	if len(g.metadata) != 1 || g.metadata[0].Metric != "n" {
		t.Errorf("%d entries are left for the next pack, want one", len(g.metadata))
	}
}

// TestVariants checks that at most maxVariants metadata entries of a metric are kept,
// and none that is larger than maxEntrySize.
func TestVariants(t *testing.T) {
	var list []series.MetricMetadata
	for i := range maxVariants + 5 {
		list = append(list, series.MetricMetadata{Metric: "a", Metadata: metadata.Metadata{Help: fmt.Sprintf("%02d", i)}})
	}
	list = append(list, series.MetricMetadata{Metric: "b", Metadata: metadata.Metadata{Help: string(make([]byte, maxEntrySize))}}, series.MetricMetadata{Metric: "c"})
	got := fewVariants(list)
	if len(got) != maxVariants+1 || got[maxVariants-1].Metric != "a" || got[maxVariants].Metric != "c" {
		t.Errorf("%d entries are kept, want %d of a and the one of c", len(got), maxVariants)
	}
}

// TestParts checks that a day with more packs than a manifest can list returns an error
// before the next pack is started.
func TestParts(t *testing.T) {
	g := &Generation{}
	name := string(make([]byte, schema.MaxMetricName))
	n := 0
	for ; g.checkParts() == nil; n++ {
		g.manifest.Packs = append(g.manifest.Packs, schema.PackEntry{Object: string(make([]byte, 300)), FirstMetric: name, LastMetric: name, Size: 1 << 40, Series: 1 << 40, Samples: 1 << 40, MinTime: 1 << 40, MaxTime: 1 << 40})
	}
	if n < 1000 {
		t.Errorf("a day can have only %d packs", n)
	}
	if size := len(g.manifest.Encode()); size > index.MaxCell {
		t.Errorf("the manifest of %d packs has %d bytes", n, size)
	}
	g = &Generation{}
	g.manifest.Packs = make([]schema.PackEntry, schema.MaxIndex)
	if g.checkParts() == nil {
		t.Error("checkParts accepts a pack whose ordinal no qualifier can hold")
	}
}
