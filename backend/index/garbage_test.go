package index

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestGarbage checks that entries are returned when they are due, the oldest first, until they
// are removed, and that a mark is found by the name of its object.
func TestGarbage(t *testing.T) {
	ix, now := open(t), testNow.UnixMilli()
	l0 := func(name string) schema.Garbage { return schema.Garbage{Kind: GarbageL0, Name: name} }
	must(t, nil, ix.Garbage.EnterGeneration(t.Context(), now, "a", manifest(3)))
	must(t, nil, ix.Garbage.Enter(t.Context(), now+1, l0("l0/later")))
	must(t, nil, ix.Garbage.Enter(t.Context(), now-1, l0("l0/first")))
	names := func(list []Due) (out []string) {
		for _, d := range list {
			out = append(out, d.Kind+" "+d.Name)
		}
		return out
	}
	list, err := ix.Garbage.Due(t.Context(), 10)
	must(t, nil, err)
	want := []string{"l0 l0/first", "index index/a/20000/3-0000000000000007", "pack l1/a/20000/3.pk"}
	if got := names(list); !slices.Equal(got, want) {
		t.Fatalf("due %q, want %q", got, want)
	}
	if list[2].Version != manifest(3).Version || list[2].Tenant != "a" || list[2].Day != testDay {
		t.Errorf("entry of a pack: %+v", list[2])
	}
	if some, err := ix.Garbage.Due(t.Context(), 1); err != nil || len(some) != 1 {
		t.Errorf("Due() with a limit of one = %v, %v", some, err)
	}
	for _, d := range list {
		must(t, nil, ix.Garbage.Done(t.Context(), d))
	}
	var left []string
	must(t, nil, ix.Garbage.Each(t.Context(), func(e schema.Garbage) { left = append(left, e.Name) }))
	if !slices.Equal(left, []string{"l0/later"}) {
		t.Errorf("entries left: %q, want l0/later", left)
	}
	must(t, nil, ix.Garbage.Drop(t.Context(), now+1, "l0/later"))
	marked := func() bool {
		t.Helper()
		ok, err := ix.Garbage.Marked(t.Context(), "l0/x")
		must(t, nil, err)
		return ok
	}
	if marked() {
		t.Error("object is marked before Mark")
	}
	must(t, nil, ix.Garbage.Mark(t.Context(), "l0/x"))
	if list, err := ix.Garbage.Due(t.Context(), 10); !marked() || err != nil || len(list) != 1 {
		t.Errorf("marked %t, due %v, %v", marked(), list, err)
	}
	must(t, nil, ix.Garbage.Unmark(t.Context(), "l0/x"))
	if marked() {
		t.Error("object is marked after Unmark")
	}
}

// TestTombstones checks that a deletion is applied when it is active, that a canceled deletion
// cannot be activated, and that numbers are not reused.
func TestTombstones(t *testing.T) {
	ix := open(t)
	matcher := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}
	reserve := func() schema.Tombstone {
		t.Helper()
		d, err := ix.Tombstones.Reserve(t.Context(), "a", func(n uint64) schema.Tombstone {
			return schema.NewTombstone(n, 0, math.MaxInt64, matcher, testNow.UnixMilli())
		})
		must(t, nil, err)
		return d
	}
	list := func() Deletions {
		t.Helper()
		_, d, err := ix.Catalogs.Day(t.Context(), "a", testDay)
		must(t, nil, err)
		return d
	}
	m := labels.FromStrings("__name__", "m")
	first, second := reserve(), reserve()
	if first.Number != 1 || second.Number != 2 || len(list().After(0, m)) != 0 {
		t.Fatalf("numbers %d and %d, %v", first.Number, second.Number, list())
	}
	if n, ok := list().Last(); n != 2 || ok {
		t.Errorf("Last() = %d, %t; want 2, false", n, ok)
	}
	must(t, nil, ix.Tombstones.Cancel(t.Context(), "a", []uint64{2}))
	if held, err := ix.Tombstones.Activate(t.Context(), "a", second); held || err != nil {
		t.Errorf("Activate() of a canceled deletion = %t, %v", held, err)
	}
	must(t, nil, mustHold(ix.Tombstones.Activate(t.Context(), "a", first)))
	d := list()
	if len(d.After(0, m)) != 1 || len(d.After(1, m)) != 0 || len(d.After(0, labels.FromStrings("__name__", "n"))) != 0 || !d.Above(0) || d.Above(1) {
		t.Errorf("active: %+v", d)
	}
	seen := map[tenant.ID]int{}
	must(t, nil, ix.Tombstones.Active(t.Context(), []tenant.ID{"a", "b"}, func(id tenant.ID, _ schema.Tombstone) error { seen[id]++; return nil }))
	if len(seen) != 1 || seen["a"] != 1 {
		t.Errorf("active deletions of tenants %v", seen)
	}
	must(t, nil, ix.Tombstones.Forget(t.Context(), "a", 1))
	if third := reserve(); third.Number != 3 || len(list()) != 1 {
		t.Errorf("number %d after all are forgotten, %v", third.Number, list())
	}
}

// TestTenants tests the list of tenants, the recorded retention, and the totals of erasures.
func TestTenants(t *testing.T) {
	ix := open(t)
	for _, id := range []tenant.ID{"a", "a-b", "b"} {
		publish(t, ix, id, 1)
	}
	if list, err := ix.Tenants.List(t.Context()); err != nil || !slices.Equal(list, []tenant.ID{"a", "a-b", "b"}) {
		t.Errorf("tenants %v, %v", list, err)
	}
	if _, known, err := ix.Tenants.Kept(t.Context(), "a"); known || err != nil {
		t.Errorf("Kept() of a tenant without a record: known, %v", err)
	}
	must(t, nil, ix.Tenants.SetKept(t.Context(), "a", 48*time.Hour))
	if keep, known, err := ix.Tenants.Kept(t.Context(), "a"); keep != 48*time.Hour || !known || err != nil {
		t.Errorf("kept %s, %t, %v", keep, known, err)
	}
	must(t, nil, ix.Tenants.SetErasure(t.Context(), "a", Erased{Objects: 3, Rows: true}))
	for _, want := range []bool{true, false} {
		if found, err := ix.Tenants.Erase(t.Context(), "a"); found != want || err != nil {
			t.Errorf("erased %t, want %t, %v", found, want, err)
		}
	}
	if list, err := ix.Tenants.List(t.Context()); err != nil || !slices.Equal(list, []tenant.ID{"a-b", "b"}) {
		t.Errorf("tenants %v, %v", list, err)
	}
	if e, err := ix.Tenants.Erasure(t.Context(), "a"); err != nil || e.Objects != 3 || !e.Rows {
		t.Errorf("Erasure() after the rows were erased = %+v, %v", e, err)
	}
}

// TestLeases checks that a lease has one holder at a time, until it expires.
func TestLeases(t *testing.T) {
	ix := open(t)
	now := testNow
	ix.Leases.now = func() time.Time { return now }
	for _, c := range []struct {
		holder string
		after  time.Duration
		want   bool
	}{{"c1", 0, true}, {"c2", 30 * time.Second, false}, {"c1", 0, true}, {"c2", 59 * time.Second, false}, {"c2", time.Second, true}, {"c1", 0, false}} {
		now = now.Add(c.after)
		if held, err := ix.Leases.Take(t.Context(), "compactor", c.holder, time.Minute); held != c.want || err != nil {
			t.Errorf("Take() by %s after %s = %t, %v; want %t", c.holder, c.after, held, err, c.want)
		}
	}
	must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: schema.LeaseKey("broken"), Mutations: []rows.Mutation{rows.Set(rows.System, schema.LeaseQualifier, 0, []byte("x"))}}))
	if held, err := ix.Leases.Take(t.Context(), "broken", "c1", time.Minute); held || err == nil {
		t.Errorf("Take of a lease that cannot be decoded = %t, %v; want false and an error", held, err)
	}
}
