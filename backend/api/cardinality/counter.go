package cardinality

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/memory"
)

// Memory in bytes of a label name and of a label value in a counter, in addition to the text, which
// belongs to the series. textBytes is the size of an answer's entry as JSON, without its text; a
// byte of text becomes at most escaped bytes. An answer is in memory textCopies times.
const (
	nameBytes  = 300
	valueBytes = 80
	textBytes  = 100
	escaped    = 6
	textCopies = 3
)

// counter counts series by label names and values.
type counter struct {
	holding *memory.Holding
	only    bool // count only the names that newCounter has set
	series  uint64
	names   map[string]*nameCounts
}

// nameCounts are the counts of one label name.
type nameCounts struct {
	series uint64            // number of series that have the label
	values map[string]uint64 // number of series by value
}

// newCounter returns a counter of all label names or, if `only` is not nil, of those in `only`. It
// charges its memory to holding, which may be nil.
func newCounter(holding *memory.Holding, only []string) *counter {
	c := &counter{holding: holding, only: only != nil, names: map[string]*nameCounts{}}
	for _, name := range only {
		c.names[name] = &nameCounts{values: map[string]uint64{}}
	}
	return c
}

// take charges n bytes.
func (c *counter) take(n int64) error { return c.holding.Take(n) }

// add counts one series.
func (c *counter) add(ls labels.Labels) error {
	c.series++
	var err error
	ls.Range(func(l labels.Label) {
		if err == nil {
			err = c.addLabel(l)
		}
	})
	return err
}

func (c *counter) addLabel(l labels.Label) error {
	n := c.names[l.Name]
	if n == nil {
		if c.only {
			return nil
		}
		if err := c.take(nameBytes); err != nil {
			return err
		}
		n = &nameCounts{values: map[string]uint64{}}
		c.names[l.Name] = n
	}
	before := len(n.values)
	n.values[l.Value]++
	n.series++
	if len(n.values) == before {
		return nil
	}
	return c.take(valueBytes)
}

// entry is a label name, a label value, or a pair of both, with a count.
type entry struct {
	name, value string
	count       uint64
}

// top keeps the entries with the highest counts. Entries with equal counts are ordered by text, so
// that the same series give the same answer.
type top struct {
	limit int
	kept  []entry // at most 2*limit
}

// newTop returns an empty top of at most limit entries.
func newTop(limit int) *top { return &top{limit: limit} }

func (t *top) push(e entry) {
	t.kept = append(t.kept, e)
	if len(t.kept) >= 2*t.limit {
		t.cut()
	}
}

func (t *top) cut() {
	slices.SortFunc(t.kept, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.count, a.count), strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	t.kept = t.kept[:min(len(t.kept), t.limit)]
}

// list returns the entries, those with the highest counts first.
func (t *top) list() []entry {
	t.cut()
	return t.kept
}

// textBytes returns the maximum memory in bytes of the entries as JSON.
func (t *top) textBytes() int64 {
	n := int64(0)
	for _, e := range t.kept {
		n += textBytes + escaped*int64(len(e.name)+len(e.value))
	}
	return textCopies * n
}
