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

// Builder gathers the rows of the index of one compacted pack: pages,
// summaries of metrics with several of them, metric names with their metadata,
// and label values. The pack keeps all of them too.
type Builder struct {
	codec     *schema.Codec
	version   schema.Version
	part      int
	continued bool // the first metric began in the pack before
	continues bool // the last metric goes on in the next pack

	first, last string // metrics
	names       []schema.Metric
	values      map[string]*schema.ValuesBuilder
	pages       []indexPage
	pending     []pack.TablePage // of the last metric, for its summaries
	cells       []pack.IndexCell

	namesSize     int  // at least what the cell of the names has, without metadata, uncompressed
	summariesSize int  // likewise of the summaries of the last metric
	crowded       bool // a label has so many sets of metrics that its buckets could run out
}

// First is the first metric of the pack, empty when it has none yet.
func (b *Builder) First() string { return b.first }

// Last is the last metric so far.
func (b *Builder) Last() string { return b.last }

// Continues reports whether the last metric goes on in the next pack, once the
// builder is finished.
func (b *Builder) Continues() bool { return b.continues }

// NamesSize is at least what the cell of the names has so far in bytes, without
// metadata and uncompressed.
func (b *Builder) NamesSize() int { return b.namesSize }

// Cells returns what the pack keeps of its index beside its pages, once the builder
// is finished.
func (b *Builder) Cells() []pack.IndexCell { return b.cells }

// maxIndexCell ends a pack before its names or the summaries of a metric pass it,
// uncompressed and each string written out. A cell may have rows.MaxValueLength,
// more than twice as much. The difference is for pages that were not heard of yet
// (pack.maxGathered and a page) and for metadata that the last metric brings.
const maxIndexCell = 4 << 20

// Full reports whether the pack should end before another series, since a cell of
// its index nears its bound. metadata is the size of what its names will have.
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

// NewBuilder begins the index of one pack: its part of the version. continued says
// that its first metric began in the pack before.
func NewBuilder(codec *schema.Codec, v schema.Version, part int, continued bool) *Builder {
	return &Builder{codec: codec, version: v, part: part, continued: continued, values: map[string]*schema.ValuesBuilder{}}
}

// nameOverhead is more than a name and its counts take in the names beside its
// bytes.
const nameOverhead = 24

// AddPage takes a finished page; pages come in the order of metrics.
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

// endMetric writes the summaries of the metric that ended, if it has several
// pages here or pages in another pack.
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

// Finish makes the cells of names and values. metadata is sorted by metric; continues
// says that the last metric goes on in the next pack.
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

// maxRowMutation is how many bytes one mutation of a row has before another one of
// the same row begins: a metric may have hundreds of megabytes of pages in a pack,
// and one mutation at most rows.MaxMutationBytes.
const maxRowMutation = 4 << 20

// rows makes the row mutations of the pack's index, the names first: whoever
// sweeps an attempt finds by them what else it may have written.
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
