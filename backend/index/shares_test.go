package index

import (
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestShares checks that a share passes from holder to holder only by changes of the row as
// it was read, and that a corrupt row does not prevent the others from being read.
func TestShares(t *testing.T) {
	ix := open(t)
	s, ctx := ix.Shares, t.Context()
	first, err := s.Read(ctx, 3)
	if err != nil || first != (schema.Share{}) {
		t.Fatalf("a share without a row is read as %+v, %v", first, err)
	}
	taken, held, err := s.Take(ctx, 3, first, "a/1", 8000)
	if want := (schema.Share{Holder: "a/1", Number: 1, Sequence: 1, Until: 8000}); !held || err != nil || taken != want {
		t.Fatalf("Take returned %+v, %t, %v, want %+v", taken, held, err, want)
	}
	if _, held, err = s.Take(ctx, 3, first, "b/1", 9000); held || err != nil {
		t.Fatalf("Take by a second ruler that read no row returned %t, %v", held, err)
	}
	renewed, held, err := s.Renew(ctx, 3, taken, 9000)
	if want := (schema.Share{Holder: "a/1", Number: 1, Sequence: 2, Until: 9000}); !held || err != nil || renewed != want {
		t.Fatalf("Renew returned %+v, %t, %v, want %+v", renewed, held, err, want)
	}
	if _, held, err = s.Release(ctx, 3, taken, 9500); held || err != nil {
		t.Fatalf("Release of an old row returned %t, %v", held, err)
	}
	released, held, err := s.Release(ctx, 3, renewed, 9500)
	if want := (schema.Share{Number: 1, Sequence: 3, Until: 9500}); !held || err != nil || released != want {
		t.Fatalf("Release returned %+v, %t, %v, want %+v", released, held, err, want)
	}
	next, held, err := s.Take(ctx, 3, released, "b/1", 20_000)
	if !held || err != nil || next.Number != 2 {
		t.Fatalf("Take after a release returned %+v, %t, %v", next, held, err)
	}
	must(t, nil, s.rows.Mutate(ctx, rows.RowMutation{Key: schema.ShareKey(1),
		Mutations: []rows.Mutation{rows.Set(rows.System, schema.ShareQualifier, 0, []byte("corrupt"))}}))
	_, _, err = s.Take(ctx, 4, schema.Share{}, "b/1", 20_000)
	must(t, nil, err)
	all, corrupt, err := s.ReadAll(ctx, 4)
	if err != nil || len(all) != 4 || all[3] != next || all[0] != (schema.Share{}) || len(corrupt) != 1 || corrupt[1] == nil {
		t.Fatalf("ReadAll returned %+v, %v, %v", all, corrupt, err)
	}
	if _, err := s.Read(ctx, 1); err == nil {
		t.Fatal("a corrupt row was read without an error")
	}
}
