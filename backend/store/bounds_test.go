package store

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// checkedRows is a row store that checks what it is given, as every adapter does.
type checkedRows struct {
	rows.Store
	cells map[string]int
}

func (c *checkedRows) MutateRows(_ context.Context, ms []rows.RowMutation) []error {
	err := rows.CheckRows(ms)
	for i := range ms {
		if err == nil {
			err = rows.CheckRow(ms[i])
		}
		for _, m := range ms[i].Mutations {
			c.cells[ms[i].Key+m.Qualifier] += len(m.Value)
		}
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// TestRowsOfLargeMetrics: pages of one metric that are more than a mutation of a
// row may have are written by several, each in a batch of its own.
func TestRowsOfLargeMetrics(t *testing.T) {
	codec, err := schema.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	b := newIndexBuilder(codec, schema.Version{Generation: 1}, 0, false)
	block := make([]byte, 1<<20)
	const pages = rows.MaxMutationBytes>>20 + 10
	for i := range pages {
		p := pack.TablePage{Metric: "m", Series: 1, Samples: 1, Labels: []pack.LabelColumn{{Name: "l", Values: []string{fmt.Sprintf("%04d", i)}}}, Block: block}
		if err := b.addPage(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.finish(nil); err != nil {
		t.Fatal(err)
	}
	c := &checkedRows{cells: map[string]int{}}
	s := &Store{opts: Options{Rows: c}}
	if err := s.mutateRows(context.Background(), b.rows("a", 1, 0)); err != nil {
		t.Fatal(err)
	}
	again := rows.RowMutation{Key: "again", Mutations: []rows.Mutation{rows.Set(rows.Data, "q", 0, []byte{1})}}
	if err := s.mutateRows(context.Background(), []rows.RowMutation{again, again}); err != nil {
		t.Errorf("a row twice: %v", err)
	}
	whole := 0
	for _, n := range c.cells {
		if n == len(block) {
			whole++
		}
	}
	if whole != pages {
		t.Errorf("%d of %d pages were written once and whole", whole, pages)
	}
}

// TestMetadataOfPack: of the metadata up to a pack's last metric, what stands
// next to it is kept, and never more than the cell of its names has room for.
func TestMetadataOfPack(t *testing.T) {
	help := string(make([]byte, pack.MaxMetadataText))
	var list []series.MetricMetadata
	for i := range 2000 {
		list = append(list, series.MetricMetadata{Metric: fmt.Sprintf("gone%04d", i), Metadata: metadata.Metadata{Help: help}})
	}
	list = append(list, series.MetricMetadata{Metric: "m", Metadata: metadata.Metadata{Help: "own"}}, series.MetricMetadata{Metric: "n"})
	s := &Store{}
	s.metrics = newMetrics(nil, &Store{pages: newCache[pageKey](1, (*pack.Page).Bytes), frames: newCache[blockKey](1, func([]byte) int64 { return 0 }), tables: newCache[blockKey](1, func(tableEntry) int64 { return 0 })})
	g := &Generation{s: s, metadata: list, index: &indexBuilder{last: "m", namesSize: 1 << 20}}
	got := g.metadataFor(false)
	size := g.index.namesSize
	for i := range got {
		size += pack.MetadataSize(&got[i])
	}
	if n := len(got); n == 0 || got[n-1].Metric != "m" || size > rows.MaxValueLength || size < rows.MaxValueLength/2 {
		t.Errorf("%d entries and %d bytes of names, want those next to the last metric and nearly as many as fit", n, size)
	}
	if len(g.metadata) != 1 || g.metadata[0].Metric != "n" {
		t.Errorf("%d entries are left for the next pack, want one", len(g.metadata))
	}
}

// TestVariants: few entries of one metric are kept, and all of others.
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

// TestParts: a day of more packs than a manifest has room for is an error before
// another one is begun.
func TestParts(t *testing.T) {
	g := &Generation{}
	name := string(make([]byte, schema.MaxMetricName))
	n := 0
	for ; g.checkParts() == nil; n++ {
		g.manifest.Packs = append(g.manifest.Packs, schema.PackEntry{Object: string(make([]byte, 300)), FirstMetric: name, LastMetric: name, Size: 1 << 40, Series: 1 << 40, Samples: 1 << 40, MinTime: 1 << 40, MaxTime: 1 << 40})
	}
	if n < 1000 {
		t.Errorf("only %d packs of a day are possible", n)
	}
	if size := len(g.manifest.Encode()); size > rows.MaxValueLength {
		t.Errorf("the manifest of %d packs has %d bytes", n, size)
	}
	g = &Generation{}
	g.manifest.Packs = make([]schema.PackEntry, schema.MaxIndex)
	if g.checkParts() == nil {
		t.Error("a pack whose ordinal no qualifier can hold")
	}
}
