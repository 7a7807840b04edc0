package index

import (
	"errors"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestGenerations checks that the names and cells of the published generation are found in rows
// with two generations, and that they are still found after the other generation is deleted.
func TestGenerations(t *testing.T) {
	ix, d := open(t), TenantDay{"a", testDay}
	other := schema.Version{Generation: 2, Attempt: 8}
	publish(t, ix, "a", 1)
	writeIndex(t, ix, d, other, testNow.UnixMilli())
	c := readCatalog(t, ix)
	check := func(what string, left int) {
		t.Helper()
		parts, err := ix.Generations.Names(t.Context(), "a", testDay, testDay)
		must(t, nil, err)
		if len(parts) != left {
			t.Errorf("%s: names of %d generations, want %d", what, len(parts), left)
		}
		parts, err = ix.Generations.PublishedNames(t.Context(), []Catalog{c}, parts)
		must(t, nil, err)
		if len(parts) != 1 || parts[0].Version != c.Version() || len(parts[0].Names.Metrics) != 2 {
			t.Errorf("%s: names %+v", what, parts)
		}
		list, err := ix.Generations.PagesOf(t.Context(), "a", []string{"a", "b", "c"}, 0, testDay, 0)
		must(t, nil, err)
		if len(list) != 2 || len(list[0].Cells) != left {
			t.Errorf("%s: %d rows of pages, the first with %d cells", what, len(list), len(list[0].Cells))
		}
		key := schema.PagesKey("a", "b", testDay)
		exact, err := ix.Generations.Exact(t.Context(), []ExactRow{{&c, key}}, 0)
		must(t, nil, err)
		if r := exact[key]; len(r.Cells) != 1 || string(r.Cells[0].Value) != "page of b" {
			t.Errorf("%s: Exact() returned %+v for the row", what, r)
		}
		values := 0
		must(t, nil, ix.Generations.EachValues(t.Context(), "a", "l", testDay, testDay, func(day int64, r Row) error {
			values += len(r.Cells)
			return nil
		}))
		if values != left {
			t.Errorf("%s: %d cells of values, want %d", what, values, left)
		}
	}
	check("two generations", 2)
	must(t, nil, ix.Generations.Delete(t.Context(), d, other))
	check("one deleted", 1)
}

// TestMissingNames checks that a published generation without names is an error.
func TestMissingNames(t *testing.T) {
	ix := open(t)
	publish(t, ix, "a", 1)
	must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: schema.NamesKey("a", testDay), Mutations: []rows.Mutation{rows.DeleteRow()}}))
	if parts, err := ix.Generations.PublishedNames(t.Context(), []Catalog{readCatalog(t, ix)}, nil); !errors.Is(err, ErrInconsistent) {
		t.Errorf("PublishedNames() = %+v, %v; want ErrInconsistent", parts, err)
	}
}

// TestRestamp checks that Restamp changes the timestamps of the published generation only, and
// that it is idempotent.
func TestRestamp(t *testing.T) {
	ix, d := open(t), TenantDay{"a", testDay}
	publish(t, ix, "a", 1)
	other := schema.Version{Generation: 2, Attempt: 8}
	writeIndex(t, ix, d, other, 5)
	c := readCatalog(t, ix)
	later := testNow.UnixMilli() + 1000
	for range 2 {
		must(t, nil, ix.Generations.Restamp(t.Context(), &c, later))
	}
	var times []int64
	for _, key := range []string{schema.NamesKey("a", testDay), schema.PagesKey("a", "a", testDay), schema.ValuesKey("a", "l", testDay)} {
		must(t, nil, ix.rows.ReadRows(t.Context(), []rows.Range{rows.Single(key)}, rows.Filter{}, func(r rows.Row) bool {
			for _, cell := range r.Cells {
				times = append(times, cell.Time)
			}
			return true
		}))
	}
	slices.Sort(times)
	if want := []int64{5, 5, 5, later, later, later}; !slices.Equal(times, want) {
		t.Errorf("timestamps %v, want %v", times, want)
	}
}

// TestRewrite checks that a rewritten cell replaces all of its versions.
func TestRewrite(t *testing.T) {
	ix := open(t)
	v := schema.Version{Generation: 1, Attempt: 1}
	key, q := schema.PagesKey("a", "m", testDay), schema.PageQualifier(v, 0, 0)
	must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.Set(rows.Data, q, testNow.UnixMilli()+500, []byte("damaged"))}}))
	cells := NewCells(testNow.UnixMilli())
	cells.Set(key, q, []byte("right"))
	must(t, nil, ix.Generations.Rewrite(t.Context(), cells))
	var got []string
	must(t, nil, ix.Generations.EachCell(t.Context(), []string{key}, v, func(_, _ string, value []byte) { got = append(got, string(value)) }))
	if !slices.Equal(got, []string{"right"}) {
		t.Errorf("cells %q", got)
	}
}
