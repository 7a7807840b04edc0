package rowtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
)

func testDeletes(t *testing.T, s rows.Store) {
	fill := func() {
		put(t, s, "r", rows.DeleteRow(), set(sys, "a", 1, "1"), set(sys, "a", 2, "2"), set(sys, "a\x00", 1, "3"), set(data, "a", 1, "4"))
	}
	put(t, s, "r\x00", set(sys, "a", 1, "other"))
	other := "r\x00{s:a@1=other}"
	for _, c := range []struct {
		name string
		m    rows.Mutation
		want []string
	}{
		{"cell", rows.DeleteCell(sys, "a", 1), []string{"r{s:a@2=2 s:a\x00@1=3 x:a@1=4}", other}},
		{"absent cell", rows.DeleteCell(sys, "a", 3), []string{"r{s:a@2=2 s:a@1=1 s:a\x00@1=3 x:a@1=4}", other}},
		{"column", rows.DeleteColumn(sys, "a"), []string{"r{s:a\x00@1=3 x:a@1=4}", other}},
		{"absent column", rows.DeleteColumn(sys, ""), []string{"r{s:a@2=2 s:a@1=1 s:a\x00@1=3 x:a@1=4}", other}},
		{"row", rows.DeleteRow(), []string{other}},
	} {
		fill()
		put(t, s, "r", c.m)
		want(t, c.name, read(t, s, rows.Filter{}, all), c.want...)
		put(t, s, "r", c.m)
		want(t, c.name+" again", read(t, s, rows.Filter{}, all), c.want...)
	}
	for i := range 300 {
		put(t, s, "many", set(data, "q", int64(i), "v"))
	}
	put(t, s, "many", rows.DeleteColumn(data, "q"), set(data, "q", 5, "kept"))
	want(t, "many versions", read(t, s, rows.Filter{}, rows.Single("many")), "many{x:q@5=kept}")
}

func testMutationOrder(t *testing.T, s rows.Store) {
	put(t, s, "r", set(sys, "a", 1, "1"), rows.DeleteColumn(sys, "a"), set(sys, "b", 1, "2"))
	want(t, "set, delete", read(t, s, rows.Filter{}, all), "r{s:b@1=2}")
	put(t, s, "r", rows.DeleteRow(), set(sys, "a", 1, "3"), set(sys, "a", 1, "4"))
	want(t, "delete, set", read(t, s, rows.Filter{}, all), "r{s:a@1=4}")
	put(t, s, "r", set(sys, "z", 1, "5"), rows.DeleteRow())
	want(t, "delete last", read(t, s, rows.Filter{}, all))
}

func testDeletePrefix(t *testing.T, s rows.Store) {
	keys := []string{"a", "a\x00", "a\x00b", "a\x00\xff", "a\x01", "a\xff", "b", "\xff", "\xff\xff", "\xff\xffz"}
	fill := func() {
		for _, k := range keys {
			put(t, s, k, set(sys, "q", 1, "v"), set(data, "q", 1, "v"))
		}
	}
	for _, p := range []string{"a\x00", "a", "a\x00\xff", "\xff\xff", "\xff", "none", "a\x00b"} {
		fill()
		for range 2 {
			if err := s.DeletePrefix(context.Background(), p); err != nil {
				t.Fatalf("delete prefix %q: %v", p, err)
			}
		}
		left := map[string]bool{}
		err := s.ReadRows(context.Background(), []rows.Range{all}, rows.Filter{}, func(r rows.Row) bool {
			left[r.Key] = true
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if left[k] == strings.HasPrefix(k, p) {
				t.Errorf("after the deletion of prefix %q: row %q exists = %v, want %v", p, k, left[k], !left[k])
			}
		}
	}
}

func testInvalid(t *testing.T, s rows.Store) {
	ctx, ok := context.Background(), []rows.Mutation{set(sys, "q", 1, "v")}
	long := strings.Repeat("k", rows.MaxKeyLength+1)
	mutate := func(key string, ms ...rows.Mutation) error {
		return s.Mutate(ctx, rows.RowMutation{Key: key, Mutations: ms})
	}
	check := func(key string, c rows.Condition, then, otherwise []rows.Mutation) error {
		_, err := s.CheckAndMutate(ctx, key, c, then, otherwise)
		return err
	}
	readWith := func(f rows.Filter, n int) error {
		return s.ReadRows(ctx, make([]rows.Range, n), f, func(rows.Row) bool { return true })
	}
	bad := set("y", "q", 1, "v")
	for name, err := range map[string]error{
		"empty key":               mutate("", ok...),
		"long key":                mutate(long, ok...),
		"no mutations":            mutate("r"),
		"unknown family":          mutate("r", bad),
		"long qualifier":          mutate("r", set(sys, strings.Repeat("q", rows.MaxQualifierLength+1), 1, "v")),
		"large value":             mutate("r", rows.Set(sys, "q", 1, make([]byte, rows.MaxValueLength+1))),
		"negative time":           mutate("r", set(sys, "q", -1, "v")),
		"large time":              mutate("r", set(sys, "q", rows.MaxTime+1, "v")),
		"unknown operation":       mutate("r", rows.Mutation{}),
		"delete unknown family":   mutate("r", rows.DeleteColumn("y", "q")),
		"check: no test":          check("r", rows.Condition{Family: sys}, ok, nil),
		"check: empty key":        check("", rows.Absent(sys, "q"), ok, nil),
		"check: family":           check("r", rows.Absent("y", "q"), ok, nil),
		"check: long value":       check("r", rows.ValueIs(sys, "q", make([]byte, rows.MaxConditionBytes+1)), ok, nil),
		"check: long qualifier":   check("r", rows.Absent(sys, strings.Repeat("q", rows.MaxConditionBytes+1)), ok, nil),
		"check: bad then":         check("r", rows.Absent(sys, "q"), []rows.Mutation{ok[0], bad}, nil),
		"check: bad otherwise":    check("r", rows.Absent(sys, "q"), ok, []rows.Mutation{bad}),
		"filter: both qualifiers": readWith(rows.Filter{Qualifiers: []string{"a"}, QualifierPrefix: "b"}, 1),
		"filter: family":          readWith(rows.Filter{Families: []rows.Family{"y"}}, 1),
		"filter: negative":        readWith(rows.Filter{Rows: -1}, 1),
		"filter: cells per row":   readWith(rows.Filter{CellsPerRow: 1}, 1),
		"too many ranges":         readWith(rows.Filter{}, rows.MaxRanges+1),
		"empty prefix":            s.DeletePrefix(ctx, ""),
	} {
		if !errors.Is(err, rows.ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
	want(t, "nothing written", read(t, s, rows.Filter{}, all))
}

func testAtomicFailure(t *testing.T, s rows.Store) {
	put(t, s, "r", set(sys, "q", 1, "before"))
	m := rows.RowMutation{Key: "r", Mutations: []rows.Mutation{rows.DeleteRow(), set(sys, "q", 1, "after"), set("y", "q", 1, "bad")}}
	if err := s.Mutate(context.Background(), m); !errors.Is(err, rows.ErrInvalid) {
		t.Errorf("mutate with an unknown family: error %v, want ErrInvalid", err)
	}
	want(t, "kept", read(t, s, rows.Filter{}, all), "r{s:q@1=before}")
}

func testBulk(t *testing.T, s rows.Store) {
	ctx := context.Background()
	var ms []rows.RowMutation
	for i := range 1000 {
		ms = append(ms, rows.RowMutation{Key: fmt.Sprintf("%04d", i), Mutations: []rows.Mutation{set(data, "q", 1, strings.Repeat("v", 10_000))}})
	}
	if errs := s.MutateRows(ctx, ms); errs != nil {
		t.Fatalf("bulk: %v", errors.Join(errs...))
	}
	if n := len(read(t, s, rows.Filter{}, all)); n != 1000 {
		t.Errorf("read %d rows, want 1000", n)
	}
	if errs := s.MutateRows(ctx, nil); errs != nil {
		t.Errorf("empty bulk: %v", errs)
	}
	put(t, s, "b", set(sys, "q", 1, "before"))
	errs := s.MutateRows(ctx, []rows.RowMutation{
		{Key: "a", Mutations: []rows.Mutation{set(sys, "q", 1, "1")}},
		{Key: "b", Mutations: []rows.Mutation{rows.DeleteRow(), set("y", "q", 1, "2")}},
		{Key: "c", Mutations: []rows.Mutation{set(sys, "q", 1, "3")}},
	})
	if len(errs) != 3 || errs[0] != nil || !errors.Is(errs[1], rows.ErrInvalid) || errs[2] != nil {
		t.Errorf("bulk with an invalid second row: errors %v, want ErrInvalid for that row only", errs)
	}
	want(t, "others applied", read(t, s, rows.Filter{}, rows.Range{Start: "a"}), "a{s:q@1=1}", "b{s:q@1=before}", "c{s:q@1=3}")

	same := rows.RowMutation{Key: "d", Mutations: []rows.Mutation{set(sys, "q", 1, "1")}}
	errs = s.MutateRows(ctx, []rows.RowMutation{same, same})
	if len(errs) != 2 || !errors.Is(errs[0], rows.ErrInvalid) || !errors.Is(errs[1], rows.ErrInvalid) {
		t.Errorf("same key twice: errors %v, want ErrInvalid for both rows", errs)
	}
	want(t, "same key twice", read(t, s, rows.Filter{}, rows.Single("d")))
}

func testSizes(t *testing.T, s rows.Store) {
	key, q := strings.Repeat("\x00", rows.MaxKeyLength), strings.Repeat("\xff", rows.MaxQualifierLength)
	v := bytes.Repeat([]byte{7}, rows.MaxValueLength)
	put(t, s, key, rows.Set(data, q, rows.MaxTime, v))
	put(t, s, strings.Repeat("\xff", rows.MaxKeyLength), set(data, "q", 1, "last"))
	var got []rows.Row
	err := s.ReadRows(context.Background(), []rows.Range{all}, rows.Filter{Qualifiers: []string{q, "q"}}, func(r rows.Row) bool {
		got = append(got, r)
		return true
	})
	if err != nil || len(got) != 2 || got[0].Key != key {
		t.Fatalf("read %d rows, error %v; want the 2 rows with the longest keys", len(got), err)
	}
	if c := got[0].Cells[0]; c.Qualifier != q || c.Time != rows.MaxTime || !bytes.Equal(c.Value, v) {
		t.Error("the largest cell was read with a different qualifier, timestamp or value")
	}
}

func testConditions(t *testing.T, s rows.Store) {
	then, otherwise := []rows.Mutation{set(sys, "r", 1, "then")}, []rows.Mutation{set(sys, "r", 1, "otherwise")}
	for _, c := range []struct {
		name  string
		c     rows.Condition
		holds bool
	}{
		{"absent", rows.Absent(sys, "none"), true},
		{"absent, but exists", rows.Absent(sys, "q"), false},
		{"absent in that family", rows.Absent(data, "q"), true},
		{"absent, but a longer qualifier exists", rows.Absent(sys, ""), true},
		{"present", rows.Present(sys, "q"), true},
		{"present, but does not exist", rows.Present(sys, "none"), false},
		{"value", rows.ValueIs(sys, "q", []byte("new.*")), true},
		{"older value", rows.ValueIs(sys, "q", []byte("old")), false},
		{"value is not a pattern", rows.ValueIs(sys, "p", []byte("a.c")), false},
		{"value is a prefix", rows.ValueIs(sys, "p", []byte("ab")), false},
		{"binary value", rows.ValueIs(sys, "bin", []byte("\x00\n\xff\\C")), true},
		{"empty value", rows.ValueIs(sys, "e", nil), true},
		{"value of absent cell", rows.ValueIs(sys, "none", nil), false},
	} {
		put(t, s, "k", rows.DeleteRow(), set(sys, "q", 1, "old"), set(sys, "q", 2, "new.*"), set(sys, "p", 1, "abc"),
			set(sys, "bin", 1, "\x00\n\xff\\C"), set(sys, "e", 1, ""))
		holds, err := s.CheckAndMutate(context.Background(), "k", c.c, then, otherwise)
		if err != nil || holds != c.holds {
			t.Errorf("condition %q: held = %v, error %v; want %v", c.name, holds, err, c.holds)
		}
		result := map[bool]string{true: "k{s:r@1=then}", false: "k{s:r@1=otherwise}"}[c.holds]
		want(t, c.name, read(t, s, rows.Filter{Qualifiers: []string{"r"}}, all), result)
	}
	holds, err := s.CheckAndMutate(context.Background(), "new", rows.Absent(sys, "q"), nil, otherwise)
	if err != nil || !holds {
		t.Errorf("empty then: held = %v, error %v; want true", holds, err)
	}
	holds, err = s.CheckAndMutate(context.Background(), "new", rows.Present(sys, "q"), then, nil)
	if err != nil || holds {
		t.Errorf("empty otherwise: held = %v, error %v; want false", holds, err)
	}
	want(t, "neither wrote", read(t, s, rows.Filter{}, rows.Single("new")))
}

func testOneWinner(t *testing.T, s rows.Store) {
	for round := range 20 {
		key := fmt.Sprint("race", round)
		var winners atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				won, err := s.CheckAndMutate(context.Background(), key, rows.Absent(sys, "q"), []rows.Mutation{set(sys, "q", int64(i), "v")}, nil)
				if err != nil {
					t.Error(err)
				}
				if won {
					winners.Add(1)
				}
			})
		}
		wg.Wait()
		if n := winners.Load(); n != 1 {
			t.Fatalf("%d of 8 concurrent conditional writes were applied, want 1", n)
		}
		if got := read(t, s, rows.Filter{}, rows.Single(key)); len(got) != 1 || strings.Count(got[0], "@") != 1 {
			t.Fatalf("row after the race is %q, want one cell", got)
		}
	}
}

// testCounter increments a counter with concurrent conditional writes, while other cells of the
// same row are written.
func testCounter(t *testing.T, s rows.Store) {
	ctx := context.Background()
	put(t, s, "n", set(sys, "n", 1, "0"))
	const workers, each = 4, 25
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				var now int
				err := s.ReadRows(ctx, []rows.Range{rows.Single("n")}, rows.Filter{Qualifiers: []string{"n"}}, func(r rows.Row) bool {
					now, _ = strconv.Atoi(string(r.Cells[0].Value))
					return true
				})
				if err != nil {
					t.Error(err)
					return
				}
				ok, err := s.CheckAndMutate(ctx, "n", rows.ValueIs(sys, "n", strconv.AppendInt(nil, int64(now), 10)),
					[]rows.Mutation{set(sys, "n", 1, strconv.Itoa(now+1))}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
				}
				put(t, s, "n", set(data, fmt.Sprint(w), int64(done), "v"))
			}
		})
	}
	wg.Wait()
	want(t, "sum", read(t, s, rows.Filter{Qualifiers: []string{"n"}}, all), fmt.Sprintf("n{s:n@1=%d}", workers*each))
}

// testAtomicRows checks that no read returns a row with parts of two writes.
func testAtomicRows(t *testing.T, s rows.Store) {
	ctx := context.Background()
	write := func(v string) []rows.Mutation {
		return []rows.Mutation{rows.DeleteRow(), set(sys, "a", 1, v), set(data, "b", 1, v)}
	}
	put(t, s, "r", write("0")...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					put(t, s, "r", write(fmt.Sprint(w, i))...)
				}
			}
		})
	}
	for range 200 {
		err := s.ReadRows(ctx, []rows.Range{all}, rows.Filter{}, func(r rows.Row) bool {
			if len(r.Cells) != 2 || !bytes.Equal(r.Cells[0].Value, r.Cells[1].Value) {
				t.Errorf("row with parts of two writes: %v", r)
				return false
			}
			return true
		})
		if err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
