package series

import "github.com/prometheus/prometheus/model/labels"

// LabelRange is a range of series in the order of labels.Compare. It includes From and ends
// before To. Empty labels do not limit that side, so the zero value contains all series.
type LabelRange struct {
	From, To labels.Labels
}

// All reports whether the range contains all series.
func (r LabelRange) All() bool { return r.From.IsEmpty() && r.To.IsEmpty() }

// Contains reports whether a series is in the range.
func (r LabelRange) Contains(ls labels.Labels) bool {
	if !r.From.IsEmpty() && labels.Compare(ls, r.From) < 0 {
		return false
	}
	return r.To.IsEmpty() || labels.Compare(ls, r.To) < 0
}

// LabelRanges divides all possible series into ranges. Each range contains about the same
// number of the given series, which must be sorted and without duplicates. The number of
// ranges is n, but not more than the number of given series, and at least one.
func LabelRanges(sorted []labels.Labels, n int) []LabelRange {
	n = max(min(n, len(sorted)), 1)
	out := make([]LabelRange, 0, n)
	var from labels.Labels
	for i := 1; i < n; i++ {
		to := sorted[len(sorted)*i/n]
		out = append(out, LabelRange{From: from, To: to})
		from = to
	}
	return append(out, LabelRange{From: from})
}
