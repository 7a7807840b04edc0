package faulty

import (
	"testing"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
)

// TestContract checks that Store keeps the contract if the plan has no fault.
func TestContract(t *testing.T) {
	rowtest.Run(t, func(t *testing.T) rows.Store { return Store{memory(t), &faults.Plan{}} })
}

func memory(t *testing.T) rows.Store {
	t.Helper()
	s, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFaults checks how many of four rows MutateRows writes with each fault.
func TestFaults(t *testing.T) {
	for kind, want := range map[faults.Kind]int{faults.None: 4, faults.Rejected: 0, faults.Lost: 4, faults.Partial: 2, faults.Killed: 0, faults.KilledAfter: 4} {
		inner, plan := memory(t), &faults.Plan{}
		s := Store{inner, plan}
		plan.Fail(1, kind)
		var ms []rows.RowMutation
		for _, key := range []string{"a", "b", "c", "d"} {
			ms = append(ms, rows.RowMutation{Key: key, Mutations: []rows.Mutation{rows.Set(rows.System, "q", 0, nil)}})
		}
		failed := 0
		for _, err := range s.MutateRows(t.Context(), ms) {
			if err != nil {
				failed++
			}
		}
		there := 0
		if err := inner.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{}, func(rows.Row) bool { there++; return true }); err != nil {
			t.Fatal(err)
		}
		if told := map[faults.Kind]int{faults.None: 0, faults.Partial: 2}; there != want || kind != faults.None && kind != faults.Partial && failed != 4 || (kind == faults.None || kind == faults.Partial) && failed != told[kind] {
			t.Errorf("%s: %d rows exist, want %d; %d rows have errors", kind, there, want, failed)
		}
		if err := inner.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
