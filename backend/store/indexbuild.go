package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// indexBuilder gathers the rows of the index of one compacted pack: pages,
// summaries of metrics with several of them, metric names with their metadata,
// and label values. The pack keeps all of them too.
type indexBuilder struct {
	codec     *schema.Codec
	version   schema.Version
	part      int
	continued bool // the first metric began in the pack before
	continues bool // the last metric goes on in the next pack

	first, last string
	names       []schema.Metric
	values      map[string]*schema.ValuesBuilder
	pages       []indexPage
	pending     []pack.TablePage // of the last metric, for its summaries
	cells       []indexCell

	namesSize     int  // at least what the cell of the names has, without metadata, uncompressed
	summariesSize int  // likewise of the summaries of the last metric
	crowded       bool // a label has so many sets of metrics that its buckets could run out
}

// maxIndexCell ends a pack before its names or the summaries of a metric pass it,
// uncompressed and each string written out. A cell may have rows.MaxValueLength,
// more than twice as much. The difference is for pages that were not heard of yet
// (pack.maxGathered and a page) and for metadata that the last metric brings.
const maxIndexCell = 4 << 20

// full reports whether the pack should end before another series, since a cell of
// its index nears its bound. metadata is the size of what its names will have.
func (b *indexBuilder) full(metadata int) bool {
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

// indexCell is a cell of the index other than a page, under the name that it has
// in the pack: kind, and then what the row's key needs to know.
type indexCell struct {
	name  string
	value []byte
}

// Kinds of cells, as the first byte of their names in a pack.
const (
	cellNames     = 'n'
	cellValues    = 'v' // bucket as uvarint, label
	cellSummaries = 'h' // metric

	// cellGeneration stands in the pack only: which part of which generation it
	// is, from which a manifest can be made again.
	cellGeneration = 'g'
)

func newIndexBuilder(codec *schema.Codec, v schema.Version, part int, continued bool) *indexBuilder {
	return &indexBuilder{codec: codec, version: v, part: part, continued: continued, values: map[string]*schema.ValuesBuilder{}}
}

// nameOverhead is more than a name and its counts take in the names beside its
// bytes.
const nameOverhead = 24

// addPage takes a finished page; pages come in the order of metrics.
func (b *indexBuilder) addPage(p pack.TablePage) error {
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
func (b *indexBuilder) endMetric(continues bool) {
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
		b.cells = append(b.cells, indexCell{name: string(rune(cellSummaries)) + b.last, value: sb.Encode(b.codec)})
	}
	b.pending = b.pending[:0]
}

// finish makes the cells of names and values.
func (b *indexBuilder) finish(metadata []series.MetricMetadata) error {
	b.endMetric(b.continues)
	names := schema.Names{}
	for _, label := range slices.Sorted(maps.Keys(b.values)) {
		buckets, firsts, err := b.values[label].Buckets(b.codec)
		if err != nil {
			return fmt.Errorf("values of label %s: %w", label, err)
		}
		for i, value := range buckets {
			name := append([]byte{cellValues}, binary.AppendUvarint(nil, uint64(i))...)
			b.cells = append(b.cells, indexCell{name: string(name) + label, value: value})
		}
		names.Labels = append(names.Labels, schema.Label{Name: label, Values: b.values[label].Len(), Buckets: firsts})
	}
	names.Metrics, names.Metadata = b.names, metadata
	b.cells = append([]indexCell{{name: string(rune(cellNames)), value: names.Encode(b.codec)}}, b.cells...)
	b.values = nil
	return nil
}

// maxRowMutation is how many bytes one mutation of a row has before another one of
// the same row begins: a metric may have hundreds of megabytes of pages in a pack,
// and one mutation at most rows.MaxMutationBytes.
const maxRowMutation = 4 << 20

// rows makes the row mutations of the pack's index, the names first: whoever
// sweeps an attempt finds by them what else it may have written.
func (b *indexBuilder) rows(t tenant.ID, day, stamp int64) []rows.RowMutation {
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
		key, qualifier := c.place(t, day, b.version, b.part)
		set(key, qualifier, c.value)
	}
	for _, p := range b.pages {
		set(schema.PagesKey(t, p.metric, day), schema.PageQualifier(b.version, b.part, p.number), p.block)
	}
	return out
}

// place is where a cell stands in the index.
func (c *indexCell) place(t tenant.ID, day int64, v schema.Version, part int) (key, qualifier string) {
	switch c.name[0] {
	case cellNames:
		return schema.NamesKey(t, day), schema.NamesQualifier(v, part)
	case cellSummaries:
		return schema.PagesKey(t, c.name[1:], day), schema.SummariesQualifier(v, part)
	default:
		bucket, n := binary.Uvarint([]byte(c.name[1:]))
		return schema.ValuesKey(t, c.name[1+n:], day), schema.ValuesQualifier(v, part, int(bucket))
	}
}

// check reports a cell of a pack that this version does not know.
func (c *indexCell) check() error {
	if c.name == "" {
		return fmt.Errorf("index cell without a name: %w", pack.ErrCorrupt)
	}
	switch c.name[0] {
	case cellNames, cellSummaries, cellGeneration:
		return nil
	case cellValues:
		if _, n := binary.Uvarint([]byte(c.name[1:])); n <= 0 {
			return fmt.Errorf("index cell %q: %w", c.name, pack.ErrCorrupt)
		}
		return nil
	}
	return fmt.Errorf("index cell %q is not known to this version; a newer one wrote it", c.name)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sortMetadata sorts by metric and leaves the order of one metric's as it is.
func sortMetadata(list []series.MetricMetadata) {
	slices.SortStableFunc(list, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
}
