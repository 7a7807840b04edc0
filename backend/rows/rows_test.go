package rows

import (
	"slices"
	"testing"
)

func TestPrefixEnd(t *testing.T) {
	for p, want := range map[string]string{"": "", "a": "b", "a\xff": "b", "a\xfe": "a\xff", "\xff\xff": "", "a\x00": "a\x01"} {
		if got := PrefixEnd(p); got != want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", p, got, want)
		}
	}
}

func TestDisjoint(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want []Range
	}{
		{"none", nil, nil},
		{"empty ones", []Range{{"b", "b"}, {"b", "a"}}, nil},
		{"sorted", []Range{{"c", "d"}, {"a", "b"}}, []Range{{"a", "b"}, {"c", "d"}}},
		{"touching", []Range{{"a", "b"}, {"b", "c"}}, []Range{{"a", "c"}}},
		{"inside", []Range{{"a", "d"}, {"b", "c"}}, []Range{{"a", "d"}}},
		{"open end", []Range{{"b", ""}, {"a", "c"}, {"d", "e"}}, []Range{{"a", ""}}},
		{"whole table", []Range{{"x", "y"}, {}}, []Range{{}}},
	} {
		if got := Disjoint(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRowCell(t *testing.T) {
	r := Row{Cells: []Cell{{Family: System, Qualifier: "q", Time: 2}, {Family: System, Qualifier: "q", Time: 1}, {Family: Data, Qualifier: "q", Time: 3}}}
	if c, ok := r.Cell(System, "q"); !ok || c.Time != 2 {
		t.Errorf("got %v, %v", c, ok)
	}
	if _, ok := r.Cell(Data, "p"); ok {
		t.Error("found a cell that does not exist")
	}
}
