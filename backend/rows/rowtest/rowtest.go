// Package rowtest tests the contract of rows.Store. Every adapter must pass it, and callers may rely
// only on behavior that it tests.
package rowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
)

// Run runs the tests. `open` returns a new, empty store, which Run closes.
func Run(t *testing.T, open func(t *testing.T) rows.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, s rows.Store)
	}{
		{"order of keys", testKeyOrder},
		{"order of cells", testCellOrder},
		{"ranges", testRanges},
		{"filters", testFilters},
		{"long lists of qualifiers", testLongLists},
		{"many ranges", testManyRanges},
		{"visit stops", testVisitStops},
		{"overwrite", testOverwrite},
		{"deletes", testDeletes},
		{"order of mutations", testMutationOrder},
		{"delete prefix", testDeletePrefix},
		{"invalid calls", testInvalid},
		{"atomic failure", testAtomicFailure},
		{"bulk", testBulk},
		{"sizes", testSizes},
		{"conditions", testConditions},
		{"long conditions", testLongConditions},
		{"one winner", testOneWinner},
		{"counter", testCounter},
		{"atomic rows", testAtomicRows},
		{"no sharing", testNoSharing},
		{"context", testContext},
		{"close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			c.test(t, s)
		})
	}
}

const sys, data = rows.System, rows.Data

func put(t *testing.T, s rows.Store, key string, ms ...rows.Mutation) {
	t.Helper()
	if err := s.Mutate(context.Background(), rows.RowMutation{Key: key, Mutations: ms}); err != nil {
		t.Fatalf("mutate %q: %v", key, err)
	}
}

func set(f rows.Family, q string, ms int64, v string) rows.Mutation {
	return rows.Set(f, q, ms, []byte(v))
}

// read returns rows as text: `key{s:q@1=v x:q@2=w}`.
func read(t *testing.T, s rows.Store, f rows.Filter, ranges ...rows.Range) []string {
	t.Helper()
	var out []string
	err := s.ReadRows(context.Background(), ranges, f, func(r rows.Row) bool {
		var cells []string
		for _, c := range r.Cells {
			cells = append(cells, fmt.Sprintf("%s:%s@%d=%s", c.Family, c.Qualifier, c.Time, c.Value))
		}
		out = append(out, r.Key+"{"+strings.Join(cells, " ")+"}")
		return true
	})
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return out
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

var all = rows.Range{}

func testKeyOrder(t *testing.T, s rows.Store) {
	keys := []string{
		"\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "a", "a\x00", "a\x00\x00", "a\x00\x01",
		"a\x00\xff", "a\x01", "a|", "a}", "ab", "b", "\xfe\xff", "\xff", "\xff\x00", "\xff\xff",
	}
	slices.Sort(keys)
	for i := range keys {
		put(t, s, keys[(i*7)%len(keys)], set(sys, "q", 1, "v"))
	}
	var expect []string
	for _, k := range keys {
		expect = append(expect, k+"{s:q@1=v}")
	}
	want(t, "all", read(t, s, rows.Filter{}, all), expect...)
	for _, k := range keys {
		want(t, "single "+k, read(t, s, rows.Filter{}, rows.Single(k)), k+"{s:q@1=v}")
		var under []string
		for _, o := range keys {
			if strings.HasPrefix(o, k) {
				under = append(under, o+"{s:q@1=v}")
			}
		}
		want(t, fmt.Sprintf("prefix %q", k), read(t, s, rows.Filter{}, rows.Prefix(k)), under...)
	}
}

func testCellOrder(t *testing.T, s rows.Store) {
	put(t, s, "r", set(data, "a", 5, "1"), set(sys, "b\x00", 5, "2"), set(sys, "b", 5, "3"), set(sys, "b", 7, "4"),
		set(sys, "", 1, "5"), set(data, "a", 0, "6"), set(sys, "b\x01", 1, "7"), set(sys, "\xff", 1, "8"))
	want(t, "cells", read(t, s, rows.Filter{}, all),
		"r{s:@1=5 s:b@7=4 s:b@5=3 s:b\x00@5=2 s:b\x01@1=7 s:\xff@1=8 x:a@5=1 x:a@0=6}")
}

func testRanges(t *testing.T, s rows.Store) {
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		put(t, s, k, set(sys, "q", 1, k))
	}
	for _, c := range []struct {
		name   string
		ranges []rows.Range
		keys   string
	}{
		{"none", nil, ""},
		{"all", []rows.Range{{}}, "abcde"},
		{"start included, end excluded", []rows.Range{{Start: "b", End: "d"}}, "bc"},
		{"open end", []rows.Range{{Start: "d"}}, "de"},
		{"open start", []rows.Range{{End: "c"}}, "ab"},
		{"empty", []rows.Range{{Start: "c", End: "c"}}, ""},
		{"reversed", []rows.Range{{Start: "d", End: "b"}}, ""},
		{"between rows", []rows.Range{{Start: "b\x00", End: "c"}}, ""},
		{"unsorted", []rows.Range{{Start: "d"}, {End: "b"}}, "ade"},
		{"overlapping", []rows.Range{{Start: "b", End: "d"}, {Start: "a", End: "c"}, {Start: "c", End: "d"}}, "abc"},
		{"same twice", []rows.Range{rows.Single("c"), rows.Single("c")}, "c"},
		{"inside another", []rows.Range{{}, rows.Single("c")}, "abcde"},
		{"absent", []rows.Range{rows.Single("x"), rows.Prefix("bb")}, ""},
	} {
		var got strings.Builder
		err := s.ReadRows(context.Background(), c.ranges, rows.Filter{}, func(r rows.Row) bool {
			got.WriteString(r.Key)
			return true
		})
		if err != nil || got.String() != c.keys {
			t.Errorf("%s: got %q, %v; want %q", c.name, got.String(), err, c.keys)
		}
	}
}

func testFilters(t *testing.T, s rows.Store) {
	put(t, s, "a", set(data, "h", 10, "1"), set(data, "p/1", 10, "2"), set(data, "p/2", 20, "3"), set(sys, "p/1", 1, "4"))
	put(t, s, "b", set(data, "p/1", 10, "5"), set(data, "p/1", 30, "6"), set(data, "q", 30, "7"))
	put(t, s, "c", set(sys, "h", 10, "8"))
	for _, c := range []struct {
		name string
		f    rows.Filter
		want []string
	}{
		{"family", rows.Filter{Families: []rows.Family{sys}}, []string{"a{s:p/1@1=4}", "c{s:h@10=8}"}},
		{"both families", rows.Filter{Families: []rows.Family{data, sys}, Rows: 1},
			[]string{"a{s:p/1@1=4 x:h@10=1 x:p/1@10=2 x:p/2@20=3}"}},
		{"qualifiers", rows.Filter{Qualifiers: []string{"q", "h", "q"}}, []string{"a{x:h@10=1}", "b{x:q@30=7}", "c{s:h@10=8}"}},
		{"qualifier is not a prefix", rows.Filter{Qualifiers: []string{"p", "p/"}}, nil},
		{"prefix", rows.Filter{QualifierPrefix: "p/"},
			[]string{"a{s:p/1@1=4 x:p/1@10=2 x:p/2@20=3}", "b{x:p/1@30=6 x:p/1@10=5}"}},
		{"prefix in family", rows.Filter{Families: []rows.Family{data}, QualifierPrefix: "p/2"}, []string{"a{x:p/2@20=3}"}},
		{"time", rows.Filter{MinTime: 20}, []string{"a{x:p/2@20=3}", "b{x:p/1@30=6 x:q@30=7}"}},
		{"latest", rows.Filter{Families: []rows.Family{data}, QualifierPrefix: "p/1", Latest: true}, []string{"a{x:p/1@10=2}", "b{x:p/1@30=6}"}},
		{"cells per row", rows.Filter{Families: []rows.Family{data}, CellsPerRow: 2},
			[]string{"a{x:h@10=1 x:p/1@10=2}", "b{x:p/1@30=6 x:p/1@10=5}"}},
		{"latest before cells per row", rows.Filter{Families: []rows.Family{data}, Latest: true, CellsPerRow: 2},
			[]string{"a{x:h@10=1 x:p/1@10=2}", "b{x:p/1@30=6 x:q@30=7}"}},
		{"time before cells per row", rows.Filter{Families: []rows.Family{data}, MinTime: 15, CellsPerRow: 1},
			[]string{"a{x:p/2@20=3}", "b{x:p/1@30=6}"}},
		{"rows", rows.Filter{Qualifiers: []string{"h"}, Rows: 1}, []string{"a{x:h@10=1}"}},
		{"rows limit after the other filters", rows.Filter{Qualifiers: []string{"q"}, Rows: 1}, []string{"b{x:q@30=7}"}},
		{"nothing left", rows.Filter{MinTime: 31}, nil},
	} {
		want(t, c.name, read(t, s, c.f, all), c.want...)
	}
	want(t, "rows over ranges", read(t, s, rows.Filter{Rows: 2, Qualifiers: []string{"h"}}, rows.Single("c"), rows.Single("a")),
		"a{x:h@10=1}", "c{s:h@10=8}")
}

func testVisitStops(t *testing.T, s rows.Store) {
	for i := range 10 {
		put(t, s, fmt.Sprint(i), set(sys, "q", 1, "v"))
	}
	n := 0
	err := s.ReadRows(context.Background(), []rows.Range{rows.Prefix("2"), rows.Prefix("4"), rows.Prefix("6")}, rows.Filter{},
		func(rows.Row) bool {
			n++
			return n < 2
		})
	if err != nil || n != 2 {
		t.Errorf("visited %d rows, %v; want 2", n, err)
	}
}

func testOverwrite(t *testing.T, s rows.Store) {
	put(t, s, "r", set(data, "q", 1, "old"))
	put(t, s, "r", set(data, "q", 1, "new"))
	put(t, s, "r", set(data, "q", 1, "new"))
	want(t, "same timestamp", read(t, s, rows.Filter{}, all), "r{x:q@1=new}")
	put(t, s, "r", set(data, "q", 2, "newer"), set(data, "q", 0, "oldest"))
	want(t, "versions", read(t, s, rows.Filter{}, all), "r{x:q@2=newer x:q@1=new x:q@0=oldest}")
	put(t, s, "e", set(sys, "q", 1, ""))
	want(t, "empty value", read(t, s, rows.Filter{}, rows.Single("e")), "e{s:q@1=}")
}

func testNoSharing(t *testing.T, s rows.Store) {
	v := []byte("value")
	put(t, s, "r", rows.Set(sys, "q", 1, v))
	copy(v, "XXXXX")
	var kept []rows.Row
	for range 2 {
		err := s.ReadRows(context.Background(), []rows.Range{all}, rows.Filter{}, func(r rows.Row) bool {
			kept = append(kept, r)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	copy(kept[0].Cells[0].Value, "YYYYY")
	if got := string(kept[1].Cells[0].Value); got != "value" {
		t.Errorf("value of the second read is %q, want %q: reads share memory", got, "value")
	}
	want(t, "stored", read(t, s, rows.Filter{}, all), "r{s:q@1=value}")
}

func testContext(t *testing.T, s rows.Store) {
	put(t, s, "r", set(sys, "q", 1, "v"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.ReadRows(ctx, []rows.Range{all}, rows.Filter{}, func(rows.Row) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("read with a canceled context: error %v, want context.Canceled", err)
	}
	if err := s.Mutate(ctx, rows.RowMutation{Key: "r", Mutations: []rows.Mutation{rows.DeleteRow()}}); !errors.Is(err, context.Canceled) {
		t.Errorf("mutate with a canceled context: error %v, want context.Canceled", err)
	}
	want(t, "kept", read(t, s, rows.Filter{}, all), "r{s:q@1=v}")
}

func testClose(t *testing.T, s rows.Store) {
	put(t, s, "r", set(sys, "q", 1, "v"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
	ctx, row := context.Background(), rows.RowMutation{Key: "r", Mutations: []rows.Mutation{rows.DeleteRow()}}
	_, cerr := s.CheckAndMutate(ctx, "r", rows.Present(sys, "q"), row.Mutations, nil)
	bulk := s.MutateRows(ctx, []rows.RowMutation{row})
	if len(bulk) != 1 {
		t.Fatalf("MutateRows of 1 row after Close returned %d errors, want 1", len(bulk))
	}
	for name, err := range map[string]error{
		"read":          s.ReadRows(ctx, []rows.Range{all}, rows.Filter{}, func(rows.Row) bool { return true }),
		"mutate":        s.Mutate(ctx, row),
		"bulk":          bulk[0],
		"check":         cerr,
		"delete prefix": s.DeletePrefix(ctx, "r"),
	} {
		if !errors.Is(err, rows.ErrClosed) {
			t.Errorf("%s after Close: error %v, want ErrClosed", name, err)
		}
	}
}
