package series

import (
	"cmp"
	"math"
	"slices"
)

// Interval is a time range in Unix milliseconds, inclusive at both ends.
type Interval struct{ Min, Max int64 }

// Without returns the chunks without their samples in the intervals. Chunks
// that overlap no interval are returned unchanged, the others are re-encoded or
// dropped.
func Without(chunks []Chunk, gone []Interval) ([]Chunk, error) {
	if len(gone) == 0 {
		return chunks, nil
	}
	kept := gaps(gone)
	out := make([]Chunk, 0, len(chunks))
	for _, c := range chunks {
		for _, k := range kept {
			if !c.Overlaps(k.Min, k.Max) {
				continue
			}
			if c.MinTime >= k.Min && c.MaxTime <= k.Max {
				out = append(out, c)
				break
			}
			part, err := EncodeAll(IteratorBetween([]Chunk{c}, k.Min, k.Max, nil))
			if err != nil {
				return nil, err
			}
			out = append(out, part...)
		}
	}
	return out, nil
}

// gaps returns the time ranges outside the intervals.
func gaps(gone []Interval) []Interval {
	gone = slices.Clone(gone)
	slices.SortFunc(gone, func(a, b Interval) int { return cmp.Compare(a.Min, b.Min) })
	var out []Interval
	from := int64(math.MinInt64)
	for _, g := range gone {
		if g.Min > from {
			out = append(out, Interval{from, g.Min - 1})
		}
		if g.Max == math.MaxInt64 {
			return out
		}
		from = max(from, g.Max+1)
	}
	return append(out, Interval{from, math.MaxInt64})
}
