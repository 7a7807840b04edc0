package schema

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// Limits of the summary of a label.
const (
	maxListed     = 64 // values that are listed
	bloomBits     = 10 // bits per value of a Bloom filter
	bloomHashes   = 6
	maxBloomBytes = 1 << 20

	// Several values with more bytes in total are not listed, so that summaries are much
	// smaller than their pages.
	maxListedBytes = 2 << 10
)

// Flags of a label in a summary.
const (
	flagMissing = 1 << iota // some series of the page lack the label
	flagBloom               // bounds and a Bloom filter instead of the values
)

// SummariesBuilder builds the summaries of a metric's pages in one pack.
type SummariesBuilder struct {
	pages []byte
	n     int
}

// NewSummariesBuilder returns an empty builder.
func NewSummariesBuilder() *SummariesBuilder { return &SummariesBuilder{} }

// AddPage adds a page of n series with its time range in milliseconds of the day. columns
// calls its argument for every label of the page, ascending by name, with the distinct values,
// ascending, and whether some series lack the label.
func (b *SummariesBuilder) AddPage(n int, mint, maxt int64, columns func(func(name string, values []string, missing bool))) {
	var cols []byte
	count := 0
	columns(func(name string, values []string, missing bool) {
		count++
		cols = appendText(cols, name)
		flag := byte(0)
		if missing {
			flag = flagMissing
		}
		if listed(values) {
			cols = append(cols, flag)
			cols = appendSorted(cols, len(values), func(i int) string { return values[i] })
			return
		}
		cols = append(cols, flag|flagBloom)
		cols = appendText(appendText(cols, values[0]), values[len(values)-1])
		cols = appendText(cols, string(bloomOf(values)))
	})
	b.pages = binary.AppendUvarint(b.pages, uint64(n))
	b.pages = binary.AppendUvarint(b.pages, uint64(mint))
	b.pages = binary.AppendUvarint(b.pages, uint64(maxt-mint))
	b.pages = binary.AppendUvarint(b.pages, uint64(count))
	b.pages = append(b.pages, cols...)
	b.n++
}

// ColumnSize returns an upper bound of the size in bytes of a summary of a label with these
// values.
func ColumnSize(name string, values []string) int {
	const overhead = 24
	size := len(name) + overhead
	if !listed(values) {
		return size + len(values[0]) + len(values[len(values)-1]) + len(values)*bloomBits/8
	}
	for _, v := range values {
		size += len(v) + 4
	}
	return size
}

// Encode returns the value of the summaries cell.
func (b *SummariesBuilder) Encode(c *Codec) []byte {
	return c.seal(valueSummaries, 1, append(binary.AppendUvarint(nil, uint64(b.n)), b.pages...))
}

// lastMillis is the last millisecond of a day.
const lastMillis int64 = series.DayMillis - 1

// listed reports whether the values are few and short enough to be listed.
func listed(values []string) bool {
	if len(values) < 2 {
		return true
	}
	size := 0
	for _, v := range values {
		size += len(v)
	}
	return len(values) <= maxListed && size <= maxListedBytes
}

func bloomOf(values []string) []byte {
	bits := make([]byte, min((len(values)*bloomBits+7)/8, maxBloomBytes))
	for _, v := range values {
		eachBit(v, len(bits), func(i uint64) bool { bits[i/8] |= 1 << (i % 8); return true })
	}
	return bits
}

// eachBit calls fn for the bits of a value in a filter of n bytes until fn returns false. It
// returns false if fn did.
func eachBit(v string, n int, fn func(uint64) bool) bool {
	h := xxhash.Sum64String(v)
	step := h>>32 | 1
	for range bloomHashes {
		if !fn(h % (uint64(n) * 8)) {
			return false
		}
		h += step * 0x9e3779b97f4a7c15
	}
	return true
}

// Summaries summarizes each page of a metric: its time range and the label values that it may
// contain.
type Summaries struct{ pages []pageSummary }

type pageSummary struct {
	series     int
	mint, maxt int64 // milliseconds of the day, inclusive
	columns    []columnSummary
}

type columnSummary struct {
	name      string
	missing   bool
	values    []string // all values if they are listed, otherwise nil
	low, high string
	bloom     []byte
}

// DecodeSummaries decodes the value of a summaries cell.
func (c *Codec) DecodeSummaries(value []byte) (*Summaries, error) {
	r, err := c.open(valueSummaries, 1, "summaries", value)
	if err != nil {
		return nil, err
	}
	s := &Summaries{}
	for n := r.upTo(MaxIndex, "pages"); n > 0 && r.err == nil; n-- {
		p := pageSummary{series: int(r.upTo(1<<20, "series")), mint: int64(r.upTo(uint64(lastMillis), "first time"))}
		p.maxt = p.mint + int64(r.upTo(uint64(lastMillis-p.mint), "time span"))
		for k := r.count("labels"); k > 0 && r.err == nil; k-- {
			col := columnSummary{name: r.text("label")}
			flag := r.byte("flags of a label")
			if flag&^(flagMissing|flagBloom) != 0 {
				return nil, fmt.Errorf("unsupported summary flags %02x: %w", flag, ErrNewer)
			}
			col.missing = flag&flagMissing != 0
			if flag&flagBloom == 0 {
				col.values = r.sorted("values")
			} else {
				col.low, col.high = r.text("lowest value"), r.text("highest value")
				if col.bloom = slices.Clone(r.bytes(int(r.upTo(maxBloomBytes, "length of a filter")), "filter")); len(col.bloom) == 0 {
					r.fail("filter is empty")
				}
			}
			if n := len(p.columns); r.err == nil && n > 0 && p.columns[n-1].name >= col.name {
				r.fail("labels do not ascend")
			}
			p.columns = append(p.columns, col)
		}
		s.pages = append(s.pages, p)
	}
	return s, r.end("summaries")
}

// Len returns the number of pages.
func (s *Summaries) Len() int { return len(s.pages) }

// MayMatch reports whether page i may have a matching series with a sample in [mint, maxt]
// (milliseconds of the day). It may return true for a page without such a series, but never
// false for a page with one. If the page does not list the metric name as a label, matchers of
// the name are ignored, because all pages are of one metric.
func (s *Summaries) MayMatch(i int, mint, maxt int64, ms []*labels.Matcher) bool {
	p := &s.pages[i]
	if p.mint > maxt || p.maxt < mint {
		return false
	}
	for _, m := range ms {
		k, ok := slices.BinarySearchFunc(p.columns, m.Name, func(c columnSummary, name string) int { return strings.Compare(c.name, name) })
		if !ok {
			if m.Name != model.MetricNameLabel && !m.Matches("") {
				return false
			}
			continue
		}
		if !p.columns[k].mayMatch(m) {
			return false
		}
	}
	return true
}

func (c *columnSummary) mayMatch(m *labels.Matcher) bool {
	if c.missing && m.Matches("") {
		return true
	}
	if c.bloom == nil {
		return slices.ContainsFunc(c.values, m.Matches)
	}
	switch m.Type {
	case labels.MatchEqual:
		return c.mayHave(m.Value)
	case labels.MatchRegexp:
		if set := m.SetMatches(); len(set) > 0 {
			return slices.ContainsFunc(set, c.mayHave)
		}
		return c.mayBegin(m.Prefix())
	}
	return true
}

func (c *columnSummary) mayHave(v string) bool {
	return v >= c.low && v <= c.high && eachBit(v, len(c.bloom), func(i uint64) bool { return c.bloom[i/8]&(1<<(i%8)) != 0 })
}

// mayBegin reports whether a value between the bounds may begin with a prefix. Values with the
// prefix are adjacent in the sort order, starting at the prefix itself.
func (c *columnSummary) mayBegin(prefix string) bool {
	return c.high >= prefix && (c.low <= prefix || strings.HasPrefix(c.low, prefix))
}
