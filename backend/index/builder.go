package index

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// Builder builds the index rows of one compacted pack: pages, summaries of metrics with
// several pages, metric names with their metadata, and label values. The pack has a copy
// of all of them.
type Builder struct {
	codec     *schema.Codec
	version   schema.Version
	part      int
	continued bool // the previous pack has pages of the first metric
	continues bool // the next pack has pages of the last metric

	first, last string // metrics
	names       []schema.Metric
	values      map[string]*schema.ValuesBuilder
	pages       []indexPage
	pending     []pack.TablePage // of the last metric, for its summaries
	cells       []pack.IndexCell

	namesSize     int  // upper bound of the size of the names cell, without metadata, uncompressed
	summariesSize int  // the same for the summaries of the last metric
	crowded       bool // a label may soon need more buckets than schema.MaxIndex
}

// First returns the first metric of the pack, or "" if the pack has none yet.
func (b *Builder) First() string { return b.first }

// Last returns the last metric so far.
func (b *Builder) Last() string { return b.last }

// Continues reports whether the next pack has pages of the last metric. It is valid
// after Finish.
func (b *Builder) Continues() bool { return b.continues }

// NamesSize returns an upper bound of the size of the names cell so far, in bytes,
// uncompressed and without metadata.
func (b *Builder) NamesSize() int { return b.namesSize }

// Cells returns the index cells that the pack stores in addition to its pages. It is
// valid after Finish.
func (b *Builder) Cells() []pack.IndexCell { return b.cells }

// maxIndexCell is the size in bytes, uncompressed and without references between
// strings, at which the names or the summaries of a metric end a pack. The limit of a
// cell, rows.MaxValueLength, is more than twice as large: the difference leaves space
// for pages that the pack writer has not passed on yet (pack.maxGathered and one page)
// and for the metadata of the last metric.
const maxIndexCell = 4 << 20

// Full reports whether the pack should end before another series is added, because a
// cell of its index, the pages of a metric or the buckets of a label are close to their
// limit. metadata is the size in bytes of the metadata that its names will have.
func (b *Builder) Full(metadata int) bool {
	if b.namesSize+metadata >= maxIndexCell || b.summariesSize >= maxIndexCell || b.crowded {
		return true
	}
	n := len(b.names)
	return n > 0 && b.names[n-1].Pages >= schema.MaxIndex/2
}

type indexPage struct {
	metric string
	number int
	block  []byte
}

// NewBuilder returns a builder for the index of one pack, the given part of the version.
// continued is true if the previous pack has pages of its first metric.
func NewBuilder(codec *schema.Codec, v schema.Version, part int, continued bool) *Builder {
	return &Builder{codec: codec, version: v, part: part, continued: continued, values: map[string]*schema.ValuesBuilder{}}
}

// nameOverhead is an upper bound, in bytes, of the encoded size of a name and its counts
// without the bytes of the name.
const nameOverhead = 24

// AddPage adds a finished page. Pages must be added in the order of their metrics.
func (b *Builder) AddPage(p pack.TablePage) error {
	if len(b.names) == 0 {
		b.first = p.Metric
	}
	if len(b.names) == 0 || b.last != p.Metric {
		b.endMetric(false)
		b.names = append(b.names, schema.Metric{Name: p.Metric})
		b.last, b.summariesSize = p.Metric, 0
		b.namesSize += len(p.Metric) + nameOverhead
	}
	m := &b.names[len(b.names)-1]
	b.pages = append(b.pages, indexPage{metric: p.Metric, number: m.Pages, block: p.Block})
	m.Pages++
	m.Series += p.Series
	ordinal := len(b.names) - 1
	for _, l := range p.Labels {
		if l.Name == model.MetricNameLabel {
			continue
		}
		vb := b.values[l.Name]
		if vb == nil {
			vb = schema.NewValuesBuilder(l.Name)
			b.values[l.Name] = vb
			b.namesSize += len(l.Name) + nameOverhead
		}
		b.namesSize -= vb.FirstsSize()
		for _, v := range l.Values {
			vb.Add(v, ordinal)
		}
		b.namesSize += vb.FirstsSize()
		b.crowded = b.crowded || vb.Full()
		b.summariesSize += schema.ColumnSize(l.Name, l.Values)
	}
	p.Block = nil
	b.pending = append(b.pending, p)
	return nil
}

// endMetric adds the summaries of the last metric, if it has several pages in this pack
// or pages in another pack.
func (b *Builder) endMetric(continues bool) {
	if len(b.pending) == 0 {
		return
	}
	if len(b.pending) > 1 || continues || b.continued && len(b.names) == 1 {
		sb := schema.NewSummariesBuilder()
		for _, p := range b.pending {
			start := series.Day(p.MinTime) * series.DayMillis
			sb.AddPage(p.Series, p.MinTime-start, p.MaxTime-start, func(yield func(string, []string, bool)) {
				for _, l := range p.Labels {
					yield(l.Name, l.Values, l.Missing)
				}
			})
		}
		b.cells = append(b.cells, pack.IndexCell{Name: string(rune(cellSummaries)) + b.last, Value: sb.Encode(b.codec)})
	}
	b.pending = b.pending[:0]
}

// Finish adds the cells of names and values. metadata is sorted by metric; continues is
// true if the next pack has pages of the last metric.
func (b *Builder) Finish(metadata []series.MetricMetadata, continues bool) error {
	b.continues = continues
	b.endMetric(continues)
	names := schema.Names{}
	for _, label := range slices.Sorted(maps.Keys(b.values)) {
		buckets, firsts, err := b.values[label].Buckets(b.codec)
		if err != nil {
			return fmt.Errorf("values of label %s: %w", label, err)
		}
		for i, value := range buckets {
			name := append([]byte{cellValues}, binary.AppendUvarint(nil, uint64(i))...)
			b.cells = append(b.cells, pack.IndexCell{Name: string(name) + label, Value: value})
		}
		names.Labels = append(names.Labels, schema.Label{Name: label, Values: b.values[label].Len(), Buckets: firsts})
	}
	names.Metrics, names.Metadata = b.names, metadata
	b.cells = append([]pack.IndexCell{{Name: string(rune(cellNames)), Value: names.Encode(b.codec)}}, b.cells...)
	b.values = nil
	return nil
}

// maxRowMutation is the size in bytes at which a mutation of a row is split: a metric may
// have hundreds of megabytes of pages in a pack, but a mutation is limited to
// rows.MaxMutationBytes.
const maxRowMutation = 4 << 20

// rows returns the row mutations of the pack's index, the names first: the sweep of an
// unpublished attempt uses the names to find the other rows.
func (b *Builder) rows(t tenant.ID, day, stamp int64) []rows.RowMutation {
	out := make([]rows.RowMutation, 0, len(b.names)+len(b.cells))
	byKey := map[string]int{}
	sizes := map[string]int{}
	set := func(key, qualifier string, value []byte) {
		i, ok := byKey[key]
		if !ok || sizes[key] >= maxRowMutation {
			i, sizes[key] = len(out), 0
			byKey[key] = i
			out = append(out, rows.RowMutation{Key: key})
		}
		sizes[key] += len(qualifier) + len(value)
		out[i].Mutations = append(out[i].Mutations, rows.Set(rows.Data, qualifier, stamp, value))
	}
	for _, c := range b.cells {
		key, qualifier := placeOf(&c, t, day, b.version, b.part)
		set(key, qualifier, c.Value)
	}
	for _, p := range b.pages {
		set(schema.PagesKey(t, p.metric, day), schema.PageQualifier(b.version, b.part, p.number), p.block)
	}
	return out
}
