package series

import "testing"

// TestBounds checks the bounds of ingesters whose clocks differ, and of ingesters of an
// older version, which return no recent bound.
func TestBounds(t *testing.T) {
	const old = 0 // the value that is read from a response without the field
	for _, tt := range []struct {
		name          string
		list          [][2]int64
		bound, recent int64
	}{
		{"equal clocks", [][2]int64{{100, 150}, {100, 150}}, 100, 150},
		{"a clock that is behind", [][2]int64{{100, 150}, {80, 120}}, 80, 120},
		{"clocks that differ by more than the bounds", [][2]int64{{100, 150}, {10, 60}}, 10, 60},
		{"an old version", [][2]int64{{100, 150}, {100, old}}, 100, 100},
		{"an old version that is behind", [][2]int64{{100, 150}, {90, old}}, 90, 90},
		{"an old version that is ahead", [][2]int64{{100, 150}, {170, old}}, 100, 100},
		{"only old versions", [][2]int64{{100, old}, {90, old}}, 90, 90},
		{"read while the bounds were raised", [][2]int64{{100, 150}, {160, 150}}, 100, 150},
	} {
		v := Versions{}
		for _, b := range tt.list {
			v.Ingesters = append(v.Ingesters, IngesterVersion{Bound: b[0], RecentBound: b[1]})
		}
		if bound, recent := v.Bounds(); bound != tt.bound || recent != tt.recent {
			t.Errorf("%s: bounds %d and %d, want %d and %d", tt.name, bound, recent, tt.bound, tt.recent)
		}
	}
}
