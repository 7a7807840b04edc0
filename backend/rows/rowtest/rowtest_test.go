package rowtest

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/memory"
)

const fault = "PALLIUM_TEST_ROWS_FAULT"

// broken is an adapter that breaks one rule of the contract.
type broken struct {
	rows.Store
	fault string
}

func (b broken) CheckAndMutate(ctx context.Context, key string, c rows.Condition, yes, no []rows.Mutation) (bool, error) {
	if b.fault == "holds always" && len(yes) > 0 {
		if err := b.Mutate(ctx, rows.RowMutation{Key: key, Mutations: yes}); err != nil {
			return false, err
		}
		return true, nil
	}
	return b.Store.CheckAndMutate(ctx, key, c, yes, no)
}

func (b broken) Mutate(ctx context.Context, m rows.RowMutation) error {
	if n := len(m.Mutations); b.fault == "half a row" && n > 1 {
		m.Mutations = m.Mutations[:n-1]
	}
	return b.Store.Mutate(ctx, m)
}

func (b broken) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	if b.fault == "no filter" {
		f.Latest = false
	}
	return b.Store.ReadRows(ctx, ranges, f, visit)
}

// TestSuite runs the suite with an adapter, which is broken if TestFaults sets a fault.
func TestSuite(t *testing.T) {
	Run(t, func(t *testing.T) rows.Store {
		s, err := memory.Open()
		if err != nil {
			t.Fatal(err)
		}
		return broken{s, os.Getenv(fault)}
	})
}

// TestFaults checks that the suite fails for a broken adapter.
func TestFaults(t *testing.T) {
	for _, f := range []string{"holds always", "half a row", "no filter"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSuite$")
		cmd.Env = append(os.Environ(), fault+"="+f)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("an adapter with the fault %q passes the suite:\n%s", f, out)
		}
	}
}
