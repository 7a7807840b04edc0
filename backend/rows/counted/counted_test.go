package counted

import (
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	return New(s)
}

func TestContract(t *testing.T) { rowtest.Run(t, func(t *testing.T) rows.Store { return open(t) }) }

func TestCounts(t *testing.T) {
	s := open(t)
	defer s.Close()
	for _, key := range []string{"a", "b", "c"} {
		m := rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.Set(rows.System, "q", 0, nil), rows.Set(rows.System, "r", 0, nil)}}
		if err := s.Mutate(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		n := 0
		if err := s.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(rows.Row) bool { n++; return n < 2 }); err != nil {
			t.Fatal(err)
		}
	}
	if s.Reads.Load() != 2 || s.Cells.Load() != 8 {
		t.Errorf("%d reads, %d cells, want 2 and 8", s.Reads.Load(), s.Cells.Load())
	}
}
