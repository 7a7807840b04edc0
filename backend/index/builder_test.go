package index

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// checkedRows is a row store that checks its arguments, as every adapter does.
type checkedRows struct {
	rows.Store
	cells map[string]int
}

func (c *checkedRows) MutateRows(_ context.Context, ms []rows.RowMutation) []error {
	err := rows.CheckRows(ms)
	for i := range ms {
		if err == nil {
			err = rows.CheckRow(ms[i])
		}
		for _, m := range ms[i].Mutations {
			c.cells[ms[i].Key+m.Qualifier] += len(m.Value)
		}
	}
	if err != nil {
		return []error{err}
	}
	return nil
}

// TestRowsOfLargeMetrics checks that all pages of a metric that exceed the limit of a mutation
// are written by valid batches, and that a row can be in a list of mutations twice.
func TestRowsOfLargeMetrics(t *testing.T) {
	codec, err := schema.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(codec, schema.Version{Generation: 1}, 0, false)
	block := make([]byte, 1<<20)
	const pages = rows.MaxMutationBytes>>20 + 10
	for i := range pages {
		p := pack.TablePage{Metric: "m", Series: 1, Samples: 1, Labels: []pack.LabelColumn{{Name: "l", Values: []string{fmt.Sprintf("%04d", i)}}}, Block: block}
		if err := b.AddPage(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Finish(nil, false); err != nil {
		t.Fatal(err)
	}
	c := &checkedRows{cells: map[string]int{}}
	s := &table{rows: c, now: time.Now}
	if err := s.mutateRows(context.Background(), b.rows("a", 1, 0)); err != nil {
		t.Fatal(err)
	}
	again := rows.RowMutation{Key: "again", Mutations: []rows.Mutation{rows.Set(rows.Data, "q", 0, []byte{1})}}
	if err := s.mutateRows(context.Background(), []rows.RowMutation{again, again}); err != nil {
		t.Errorf("mutateRows with a row twice: %v", err)
	}
	whole := 0
	for _, n := range c.cells {
		if n == len(block) {
			whole++
		}
	}
	if whole != pages {
		t.Errorf("%d of %d pages were written once and completely, want all", whole, pages)
	}
}
