package rows

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Limits of every store. None exceeds the limit of Bigtable.
const (
	MaxKeyLength       = 4 << 10              // bytes
	MaxQualifierLength = 16 << 10             // bytes
	MaxValueLength     = 10 << 20             // bytes of one cell
	MaxMutations       = 100_000              // in one RowMutation, and in one MutateRows
	MaxMutationBytes   = 64 << 20             // qualifiers and values in one RowMutation
	MaxConditionBytes  = 4 << 10              // qualifier of a Condition, and value of a Condition, each
	MaxRanges          = 4096                 // in one ReadRows
	MaxTime            = math.MaxInt64 / 1000 // milliseconds since 1970; Bigtable counts microseconds
)

// Errors of every store. Wrapping errors have the details.
var (
	ErrInvalid = errors.New("invalid use of the row store")
	ErrClosed  = errors.New("row store is closed")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// CheckKey returns an error if a row key is empty or too long.
func CheckKey(key string) error {
	switch {
	case key == "":
		return invalid("row key is empty")
	case len(key) > MaxKeyLength:
		return invalid("row key has %d bytes, the limit is %d", len(key), MaxKeyLength)
	}
	return nil
}

// CheckRow checks the mutations of one row. An empty list is invalid.
func CheckRow(m RowMutation) error {
	if err := CheckKey(m.Key); err != nil {
		return err
	}
	if len(m.Mutations) == 0 {
		return invalid("row %q has no mutations", shorten(m.Key))
	}
	return checkMutations(m.Key, m.Mutations)
}

// CheckRows checks the number of mutations in a MutateRows, and that no key appears
// twice. It does not check the rows: callers use CheckRow for each.
func CheckRows(ms []RowMutation) error {
	n, seen := 0, make(map[string]struct{}, len(ms))
	for _, m := range ms {
		if _, twice := seen[m.Key]; twice {
			return invalid("row %q appears twice in one MutateRows", shorten(m.Key))
		}
		seen[m.Key] = struct{}{}
		n += len(m.Mutations)
	}
	if n > MaxMutations {
		return invalid("MutateRows has %d mutations, the limit is %d", n, MaxMutations)
	}
	return nil
}

// CheckCondition checks the arguments of a CheckAndMutate.
func CheckCondition(key string, c Condition, then, otherwise []Mutation) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if c.Test < IsAbsent || c.Test > HasValue {
		return invalid("condition has no test, or an unknown one")
	}
	if err := checkCell(c.Family, c.Qualifier); err != nil {
		return err
	}
	if n := max(len(c.Qualifier), len(c.Value)); n > MaxConditionBytes {
		return invalid("condition has a qualifier or value of %d bytes, the limit is %d", n, MaxConditionBytes)
	}
	if err := checkMutations(key, then); err != nil {
		return err
	}
	return checkMutations(key, otherwise)
}

func checkMutations(key string, ms []Mutation) error {
	if len(ms) > MaxMutations {
		return invalid("row %q has %d mutations, the limit is %d", shorten(key), len(ms), MaxMutations)
	}
	size := 0
	for _, m := range ms {
		if err := checkMutation(m); err != nil {
			return fmt.Errorf("row %q: %w", shorten(key), err)
		}
		size += len(m.Qualifier) + len(m.Value)
	}
	if size > MaxMutationBytes {
		return invalid("mutations of row %q have %d bytes, the limit is %d", shorten(key), size, MaxMutationBytes)
	}
	return nil
}

func checkMutation(m Mutation) error {
	switch m.Op {
	case OpDeleteRow:
		return nil
	case OpDeleteColumn:
		return checkCell(m.Family, m.Qualifier)
	case OpSet, OpDeleteCell:
	default:
		return invalid("unknown operation %d", m.Op)
	}
	if err := checkCell(m.Family, m.Qualifier); err != nil {
		return err
	}
	if m.Time < 0 || m.Time > MaxTime {
		return invalid("timestamp %d is not between 0 and %d", m.Time, int64(MaxTime))
	}
	if len(m.Value) > MaxValueLength {
		return invalid("value of %q has %d bytes, the limit is %d", shorten(m.Qualifier), len(m.Value), MaxValueLength)
	}
	return nil
}

func checkCell(f Family, qualifier string) error {
	if err := checkFamily(f); err != nil {
		return err
	}
	if len(qualifier) > MaxQualifierLength {
		return invalid("qualifier has %d bytes, the limit is %d", len(qualifier), MaxQualifierLength)
	}
	return nil
}

func checkFamily(f Family) error {
	if !slices.Contains(Families(), f) {
		return invalid("unknown family %q", f)
	}
	return nil
}

// CheckRead checks the arguments of a ReadRows.
func CheckRead(ranges []Range, f Filter) error {
	if len(ranges) > MaxRanges {
		return invalid("read has %d ranges, the limit is %d", len(ranges), MaxRanges)
	}
	for _, fam := range f.Families {
		if err := checkFamily(fam); err != nil {
			return err
		}
	}
	switch {
	case len(f.Qualifiers) > 0 && f.QualifierPrefix != "":
		return invalid("filter has both qualifiers and a qualifier prefix")
	case f.CellsPerRow < 0 || f.Rows < 0:
		return invalid("filter has a negative limit")
	case f.CellsPerRow > 0 && len(f.Families) != 1:
		return invalid("filter limits cells per row: it must name exactly one family")
	case f.MinTime < 0 || f.MinTime > MaxTime:
		return invalid("MinTime %d of the filter is not between 0 and %d", f.MinTime, int64(MaxTime))
	}
	return nil
}

// CheckPrefix checks the argument of a DeletePrefix.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return invalid("prefix is empty: that would delete the whole table")
	}
	return CheckKey(prefix)
}

// shorten truncates long keys in error texts.
func shorten(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// Disjoint returns the ranges sorted, without empty ones, and with overlapping ones
// merged.
func Disjoint(ranges []Range) []Range {
	sorted := make([]Range, 0, len(ranges))
	for _, r := range ranges {
		if r.End == "" || r.Start < r.End {
			sorted = append(sorted, r)
		}
	}
	slices.SortFunc(sorted, func(a, b Range) int {
		if a.Start < b.Start {
			return -1
		}
		if a.Start > b.Start {
			return 1
		}
		return 0
	})
	out := sorted[:0]
	for _, r := range sorted {
		if n := len(out); n > 0 && (out[n-1].End == "" || r.Start <= out[n-1].End) {
			if out[n-1].End != "" && (r.End == "" || r.End > out[n-1].End) {
				out[n-1].End = r.End
			}
			continue
		}
		out = append(out, r)
	}
	return out
}
