package series

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// TestLabelRanges checks that each series, given to LabelRanges or not, is in exactly one
// range, and that the numbers of given series in two ranges differ by at most one.
func TestLabelRanges(t *testing.T) {
	var list []labels.Labels
	for i := range 100 {
		list = append(list, labels.FromStrings("__name__", "x", "i", fmt.Sprintf("%03d", 2*i)))
	}
	for _, n := range []int{-1, 0, 1, 2, 3, 7, 99, 100, 500} {
		for _, size := range []int{0, 1, 2, 5, 100} {
			ranges := LabelRanges(list[:size], n)
			if want := max(1, min(n, size)); len(ranges) != want {
				t.Fatalf("%d series in %d ranges, want %d", size, len(ranges), want)
			}
			for i := -1; i < 202; i++ {
				in := 0
				for _, r := range ranges {
					if r.Contains(labels.FromStrings("__name__", "x", "i", fmt.Sprintf("%03d", i))) {
						in++
					}
				}
				if in != 1 {
					t.Errorf("n=%d, size=%d: series %d is in %d ranges", n, size, i, in)
				}
			}
			for _, r := range ranges {
				count := 0
				for _, ls := range list[:size] {
					if r.Contains(ls) {
						count++
					}
				}
				if each := size / len(ranges); count < each || count > each+1 {
					t.Errorf("n=%d, size=%d: a range has %d series, want %d or %d", n, size, count, each, each+1)
				}
			}
			if len(ranges) == 1 != ranges[0].All() {
				t.Errorf("n=%d, size=%d: All of the first range is %v", n, size, ranges[0].All())
			}
		}
	}
}
