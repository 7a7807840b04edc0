package rowtest

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
)

// longLists returns lists of special, long, similar or many qualifiers. Some lists do
// not fit into a filter of Bigtable.
func longLists() map[string][]string {
	rnd := rand.New(rand.NewSource(1))
	random := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Intn(256))
		}
		return string(b)
	}
	lists := map[string][]string{
		"empty":   {""},
		"special": {"", "\n", ".", "a.c", "abc", "a\nc", "[a]", "a|b", "\\", "\\C", "-", "^", "]", "\x00", "\xff\xfe", "é", "a*"},
	}
	add := func(list string, q string) { lists[list] = append(lists[list], q) }
	page, other := random(15), random(200)
	for i := range 400 {
		add("long", random(100+rnd.Intn(200)))
		add("begin alike", other+random(100))
		add("end alike", random(3)+other)
		add("pages", page+string([]byte{byte(rnd.Intn(4)), byte(rnd.Intn(256))}))
		add("many", random(1+rnd.Intn(4)))
		add("nested", strings.Repeat("a", i))
		add("nested binary", strings.Repeat("\xf0", i)+random(1))
	}
	for range 1000 {
		add("very many", random(9))
	}
	for range 3 {
		add("longest", random(rows.MaxQualifierLength))
	}
	return lists
}

// testLongLists compares reads with long lists of qualifiers with the cells written.
func testLongLists(t *testing.T, s rows.Store) {
	for name, list := range longLists() {
		t.Run(name, func(t *testing.T) { testLongList(t, s, name, list) })
	}
}

func testLongList(t *testing.T, s rows.Store, name string, list []string) {
	const base = 4_000_000_000_000 // far in the future: Bigtable drops old cells
	rnd := rand.New(rand.NewSource(int64(len(list))))
	name += "/"
	for _, key := range []string{"1", "2", "3", "4"} {
		m := rows.RowMutation{Key: name + key}
		for range 12 { // an emulator compiles the filter for every cell
			q := list[rnd.Intn(len(list))]
			for _, q := range []string{q, q + "\x00", q[:len(q)/2], strings.ToUpper(q)} {
				if rnd.Intn(3) > 0 && len(q) <= rows.MaxQualifierLength {
					f, ms := rows.Families()[rnd.Intn(2)], base+int64(rnd.Intn(3))
					if f == sys { // only the newest version is guaranteed to be kept
						ms = base + int64(len(q)%3)
					}
					m.Mutations = append(m.Mutations, set(f, q, ms, "v"))
				}
			}
		}
		if key == "3" { // no qualifier of the list
			m.Mutations = []rows.Mutation{set(sys, "none of them", base, "v"), set(data, "none of them", base, "v")}
		}
		if errs := s.MutateRows(context.Background(), []rows.RowMutation{m}); errs != nil {
			t.Fatal(errs)
		}
	}
	var all []rows.Row
	err := s.ReadRows(context.Background(), []rows.Range{rows.Prefix(name)}, rows.Filter{},
		func(r rows.Row) bool { all = append(all, r); return true })
	if err != nil || len(all) != 4 {
		t.Fatalf("read %d rows, error %v; want 4", len(all), err)
	}
	for what, f := range map[string]rows.Filter{
		"all":           {},
		"family":        {Families: []rows.Family{data}},
		"latest":        {Latest: true},
		"time":          {MinTime: base + 1},
		"cells per row": {Families: []rows.Family{sys}, Latest: true, CellsPerRow: 5},
		"rows":          {Rows: 3},
		"everything":    {Families: []rows.Family{data}, MinTime: base + 1, Latest: true, CellsPerRow: 2, Rows: 2},
	} {
		f.Qualifiers = list
		compare(t, s, name, what, f, all)
		f.Qualifiers, f.QualifierPrefix = nil, list[len(list)/2]
		compare(t, s, name, what+", prefix", f, all)
	}
	n := 0
	err = s.ReadRows(context.Background(), []rows.Range{rows.Prefix(name)}, rows.Filter{Qualifiers: list},
		func(rows.Row) bool { n++; return n < 2 })
	if err != nil || n != 2 {
		t.Errorf("visited %d rows, %v; want 2", n, err)
	}
}

func compare(t *testing.T, s rows.Store, name, what string, f rows.Filter, all []rows.Row) {
	t.Helper()
	var want []string
	for _, r := range all {
		if r.Cells = filtered(r.Cells, f); len(r.Cells) > 0 && (f.Rows == 0 || len(want) < f.Rows) {
			want = append(want, text(r))
		}
	}
	var got []string
	err := s.ReadRows(context.Background(), []rows.Range{rows.Prefix(name)}, f,
		func(r rows.Row) bool { got = append(got, text(r)); return true })
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%s: %d rows, want %d; row %d is\n%.500s\nwant\n%.500s", what, len(got), len(want), i, at(got, i), at(want, i))
			return
		}
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "none"
}

func text(r rows.Row) string {
	var b strings.Builder
	b.WriteString(r.Key)
	for _, c := range r.Cells {
		fmt.Fprintf(&b, " %s:%q@%d", c.Family, c.Qualifier, c.Time)
	}
	return b.String()
}

// filtered returns the cells of a row that a filter selects.
func filtered(cells []rows.Cell, f rows.Filter) []rows.Cell {
	wanted := map[string]bool{}
	for _, q := range f.Qualifiers {
		wanted[q] = true
	}
	var out []rows.Cell
	for _, c := range cells {
		n := len(out)
		switch {
		case len(f.Families) > 0 && !slices.Contains(f.Families, c.Family):
		case len(wanted) > 0 && !wanted[c.Qualifier], !strings.HasPrefix(c.Qualifier, f.QualifierPrefix), c.Time < f.MinTime:
		case f.Latest && n > 0 && out[n-1].Family == c.Family && out[n-1].Qualifier == c.Qualifier:
		case f.CellsPerRow > 0 && n == f.CellsPerRow:
		default:
			out = append(out, c)
		}
	}
	return out
}

// testLongConditions tests conditions with the longest qualifiers and values allowed.
func testLongConditions(t *testing.T, s rows.Store) {
	q, v := strings.Repeat("\xff", rows.MaxConditionBytes), strings.Repeat("\x00", rows.MaxConditionBytes)
	put(t, s, "r", set(sys, q, 1, v), set(sys, q[1:], 1, v+"\x00"))
	for _, c := range []struct {
		c     rows.Condition
		holds bool
	}{
		{rows.Present(sys, q), true},
		{rows.ValueIs(sys, q, []byte(v)), true},
		{rows.ValueIs(sys, q[1:], []byte(v)), false},
		{rows.Absent(sys, q[2:]), true},
		{rows.Present(data, q), false},
	} {
		got, err := s.CheckAndMutate(context.Background(), "r", c.c, nil, []rows.Mutation{set(data, "else", 1, "v")})
		if err != nil || got != c.holds {
			t.Errorf("condition %d on a qualifier of %d bytes: held = %v, error %v; want %v", c.c.Test, len(c.c.Qualifier), got, err, c.holds)
		}
	}
}

// testManyRanges reads with the largest number of long ranges allowed.
func testManyRanges(t *testing.T, s rows.Store) {
	var ranges []rows.Range
	var keys []string
	for i := range rows.MaxRanges {
		key := fmt.Sprintf("%s%04d", strings.Repeat("k", 300), i)
		ranges = append(ranges, rows.Single(key))
		if i%500 == 0 {
			keys = append(keys, key)
			put(t, s, key, set(sys, "q", 1, "v"))
		}
	}
	var got []string
	err := s.ReadRows(context.Background(), ranges, rows.Filter{}, func(r rows.Row) bool { got = append(got, r.Key); return true })
	if err != nil || !slices.Equal(got, keys) {
		t.Errorf("%d rows, %v; want %d", len(got), err, len(keys))
	}
}
