package schema

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sort"
)

// bucketRaw is the size in bytes at which a bucket of values is closed.
const bucketRaw = 256 << 10

// ValuesBuilder gathers the values of one label in one pack, and which metrics
// have each.
type ValuesBuilder struct {
	label   string
	metrics map[string][]int // ascending ordinals
}

// NewValuesBuilder returns a builder for a label.
func NewValuesBuilder(label string) *ValuesBuilder {
	return &ValuesBuilder{label: label, metrics: map[string][]int{}}
}

// Add notes that a metric, by its ordinal in the names of the pack, has the
// value. For one value, ordinals never descend.
func (b *ValuesBuilder) Add(value string, metric int) {
	list := b.metrics[value]
	if n := len(list); n == 0 || list[n-1] != metric {
		b.metrics[value] = append(list, metric)
	}
}

// Len is the number of distinct values.
func (b *ValuesBuilder) Len() int { return len(b.metrics) }

// Buckets makes the values of the label's cells, and the first value of each.
func (b *ValuesBuilder) Buckets(c *Codec) (buckets [][]byte, firsts []string, err error) {
	values := slices.Sorted(maps.Keys(b.metrics))
	for len(values) > 0 {
		size, n := 0, 0
		for n < len(values) && (n == 0 || size < bucketRaw) {
			size += len(values[n]) + 4
			n++
		}
		if len(buckets) == MaxIndex {
			return nil, nil, fmt.Errorf("label %s has too many values for one pack", b.label)
		}
		buckets, firsts = append(buckets, b.bucket(c, values[:n])), append(firsts, values[0])
		values = values[n:]
	}
	return buckets, firsts, nil
}

// bucket encodes values with the sets of metrics that have them. Values mostly
// share their set with others, so sets are listed once.
func (b *ValuesBuilder) bucket(c *Codec, values []string) []byte {
	raw := appendSorted(nil, len(values), func(i int) string { return values[i] })
	places := map[string]int{}
	var sets, refs []byte
	for _, v := range values {
		set := binary.AppendUvarint(nil, uint64(len(b.metrics[v])))
		prev := 0
		for _, m := range b.metrics[v] {
			set = binary.AppendUvarint(set, uint64(m-prev))
			prev = m
		}
		place, ok := places[string(set)]
		if !ok {
			place = len(places)
			places[string(set)] = place
			sets = append(sets, set...)
		}
		refs = binary.AppendUvarint(refs, uint64(place))
	}
	raw = binary.AppendUvarint(raw, uint64(len(places)))
	raw = append(append(raw, sets...), refs...)
	return c.seal(valueBucket, 1, raw)
}

// Bucket is a decoded bucket of values.
type Bucket struct {
	values []string
	sets   [][]int
	set    []int
}

// Len is the number of values.
func (b *Bucket) Len() int { return len(b.values) }

// Value is value i; values ascend.
func (b *Bucket) Value(i int) string { return b.values[i] }

// Metrics is the ordinals of the metrics that have value i, ascending; shared,
// not to be changed.
func (b *Bucket) Metrics(i int) []int { return b.sets[b.set[i]] }

// Find looks for a value.
func (b *Bucket) Find(value string) (int, bool) {
	i := sort.SearchStrings(b.values, value)
	return i, i < len(b.values) && b.values[i] == value
}

// DecodeBucket reads the value of a bucket's cell.
func (c *Codec) DecodeBucket(value []byte) (*Bucket, error) {
	r, err := c.open(valueBucket, 1, "label values", value)
	if err != nil {
		return nil, err
	}
	b := &Bucket{values: r.sorted("label values")}
	n := int(r.upTo(uint64(len(b.values)), "sets of metrics"))
	for i := 0; i < n && r.err == nil; i++ {
		set := make([]int, 0, min(r.peekCount(), 1024))
		prev := 0
		for k := r.count("metrics"); k > 0 && r.err == nil; k-- {
			prev += int(r.upTo(1<<31, "metric"))
			set = append(set, prev)
		}
		b.sets = append(b.sets, set)
	}
	for i := 0; i < len(b.values) && r.err == nil; i++ {
		k := r.uvarint("set of a value")
		if k >= uint64(len(b.sets)) {
			r.fail("value has set %d of %d", k, len(b.sets))
			break
		}
		b.set = append(b.set, int(k))
	}
	return b, r.end("label values")
}

// peekCount is a guess of the count that comes next.
func (r *reader) peekCount() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		return 0
	}
	return int(min(v, uint64(len(r.b))))
}
