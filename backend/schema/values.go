package schema

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sort"
)

// A bucket is closed before it exceeds bucketRaw bytes uncompressed. If it has more than maxBucket
// bytes compressed, it is built again with half the uncompressed size, repeatedly. A single value
// with all its metrics may have more. Uncompressed, two consecutive buckets therefore always have
// more than maxBucket/2 bytes together.
const (
	bucketRaw = 256 << 10
	maxBucket = 128 << 10
)

// ValuesBuilder collects the values of one label in one pack, and the metrics that have each
// value.
type ValuesBuilder struct {
	label   string
	metrics map[string][]int // ascending ordinals
	firsts  int              // see FirstsSize
	longest int              // length of the longest value that is not longer than longValue, plus 4
	sets    int              // number of ordinals in all sets
}

// NewValuesBuilder returns a builder for a label.
func NewValuesBuilder(label string) *ValuesBuilder {
	return &ValuesBuilder{label: label, metrics: map[string][]int{}}
}

// Add adds a value of a metric, given by its ordinal in the names of the pack. Ordinals may
// come in any order; ascending ones are fastest.
func (b *ValuesBuilder) Add(value string, metric int) {
	list := b.metrics[value]
	switch n := len(list); {
	case n == 0:
		b.firsts += firstShare(len(value))
		if len(value) <= longValue {
			b.longest = max(b.longest, len(value)+4)
		}
		b.metrics[value] = append(list, metric)
	case list[n-1] < metric:
		b.metrics[value] = append(list, metric)
	default:
		i, found := slices.BinarySearch(list, metric)
		if found {
			return
		}
		b.metrics[value] = slices.Insert(list, i, metric)
	}
	b.sets++
}

// longValue is the length in bytes above which a value is assumed to be the first value of
// a bucket.
const longValue = 1 << 10

// firstShare returns the number of bytes that a value of n bytes adds to FirstsSize. A long
// value counts as the first one of its bucket. A shorter one adds its share of a first value,
// in proportion to its share of the minimum size of a bucket.
func firstShare(n int) int {
	if n > longValue {
		return n + 4
	}
	return (n+4)*longValue/(maxBucket/4) + 1
}

// FirstsSize returns an upper bound of the total size in bytes of the first values of all
// buckets, which are part of the names.
func (b *ValuesBuilder) FirstsSize() int { return b.firsts + b.longest }

// Full reports whether further metrics with these values could lead to more buckets than a
// label may have in a pack. The number of values needs no check here: the limit for FirstsSize
// is reached first.
func (b *ValuesBuilder) Full() bool {
	const ordinal = 5 // largest size in bytes
	return b.sets >= MaxIndex/4*(maxBucket/4)/ordinal
}

// Len returns the number of distinct values.
func (b *ValuesBuilder) Len() int { return len(b.metrics) }

// Buckets returns the values of the label's cells, and the first label value in each.
func (b *ValuesBuilder) Buckets(c *Codec) (buckets [][]byte, firsts []string, err error) {
	values := slices.Sorted(maps.Keys(b.metrics))
	for len(values) > 0 {
		limit := bucketRaw
		raw, n := b.bucket(values, limit)
		cell := c.seal(valueBucket, 1, raw)
		for len(cell) > maxBucket && n > 1 {
			limit /= 2
			raw, n = b.bucket(values, limit)
			cell = c.seal(valueBucket, 1, raw)
		}
		if len(buckets) == MaxIndex {
			return nil, nil, fmt.Errorf("label %s has too many values for one pack", b.label)
		}
		buckets, firsts = append(buckets, cell), append(firsts, values[0])
		values = values[n:]
	}
	return buckets, firsts, nil
}

// bucket encodes the first values, at least one, up to a size in bytes, with the sets of metrics
// that have them, and returns the number of values encoded. Each distinct set is listed once,
// since most values share their set with others.
func (b *ValuesBuilder) bucket(values []string, limit int) (raw []byte, n int) {
	places := map[string]int{}
	var sets, refs, set []byte
	for size := 0; n < len(values); n++ {
		set = appendSet(set[:0], b.metrics[values[n]])
		place, ok := places[string(set)]
		size += len(values[n]) + 4
		if !ok {
			size += len(set)
		}
		if n > 0 && size > limit {
			break
		}
		if !ok {
			place = len(places)
			places[string(set)] = place
			sets = append(sets, set...)
		}
		refs = binary.AppendUvarint(refs, uint64(place))
	}
	raw = appendSorted(nil, n, func(i int) string { return values[i] })
	raw = binary.AppendUvarint(raw, uint64(len(places)))
	return append(append(raw, sets...), refs...), n
}

// appendSet appends a set of ordinals: their number, and the difference of each to the previous
// one, or to 0 for the first.
func appendSet(b []byte, metrics []int) []byte {
	b = binary.AppendUvarint(b, uint64(len(metrics)))
	prev := 0
	for _, m := range metrics {
		b = binary.AppendUvarint(b, uint64(m-prev))
		prev = m
	}
	return b
}

// maxOrdinal is the largest ordinal of a metric.
const maxOrdinal = 1<<31 - 1

// set decodes a set encoded by appendSet.
func (r *reader) set() []int {
	n := r.count("metrics of a value")
	out := make([]int, 0, min(n, 1<<16))
	prev := uint64(0)
	for i := 0; i < n && r.err == nil; i++ {
		d := r.upTo(maxOrdinal-prev, "metric of a value")
		if i > 0 && d == 0 {
			r.fail("the metrics of a label value are not in ascending order")
		}
		prev += d
		out = append(out, int(prev))
	}
	return out
}

// Bucket is a decoded bucket of values.
type Bucket struct {
	values []string
	sets   [][]int
	set    []int
}

// Len returns the number of values.
func (b *Bucket) Len() int { return len(b.values) }

// Value returns value i. Values are in ascending order.
func (b *Bucket) Value(i int) string { return b.values[i] }

// Metrics returns the ordinals of the metrics that have value i, ascending. The caller must not
// change the slice.
func (b *Bucket) Metrics(i int) []int { return b.sets[b.set[i]] }

// Find searches for a value.
func (b *Bucket) Find(value string) (int, bool) {
	i := sort.SearchStrings(b.values, value)
	return i, i < len(b.values) && b.values[i] == value
}

// DecodeBucket decodes the value of a bucket cell.
func (c *Codec) DecodeBucket(value []byte) (*Bucket, error) {
	r, err := c.open(valueBucket, 1, "label values", value)
	if err != nil {
		return nil, err
	}
	b := &Bucket{values: r.sorted("label values")}
	b.set = make([]int, 0, len(b.values))
	n := int(r.upTo(uint64(len(b.values)), "sets of metrics"))
	for i := 0; i < n && r.err == nil; i++ {
		b.sets = append(b.sets, r.set())
	}
	for i := 0; i < len(b.values) && r.err == nil; i++ {
		k := r.uvarint("set of a value")
		if k >= uint64(len(b.sets)) {
			r.fail("label value refers to metric set %d of %d", k, len(b.sets))
			break
		}
		b.set = append(b.set, int(k))
	}
	return b, r.end("label values")
}
