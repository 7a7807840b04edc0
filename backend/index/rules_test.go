package index

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/faulty"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
)

func accept(RuleSet) error { return nil }

// names returns the rules of a tenant as namespace/group=YAML, and the number of changes.
func names(t *testing.T, ix *Index, id tenant.ID) string {
	t.Helper()
	set, err := ix.Rules.List(t.Context(), id)
	must(t, nil, err)
	parts := []string{fmt.Sprint(set.Version.Number)}
	for _, g := range set.Groups {
		must(t, nil, g.Err)
		parts = append(parts, g.Namespace+":"+g.Name+"="+g.YAML)
	}
	return strings.Join(parts, " ")
}

// TestRules checks all changes of rules, with two tenants that do not affect each other.
func TestRules(t *testing.T) {
	ix, ctx := open(t), t.Context()
	put := func(id tenant.ID, namespace, name, yaml string) {
		t.Helper()
		must(t, nil, ix.Rules.Put(ctx, id, RuleGroup{Namespace: namespace, Name: name, YAML: yaml}, accept))
	}
	if got := names(t, ix, "a"); got != "0" {
		t.Errorf("without rules: %s", got)
	}
	put("a", "n/2", "g", "1")
	put("a", "n", "h", "2")
	put("a", "n", "g", "3")
	put("a", "n", "g", "4")
	put("b", "n", "g", "5")
	if got := names(t, ix, "a") + " | " + names(t, ix, "b"); got != "4 n:g=4 n:h=2 n/2:g=1 | 1 n:g=5" {
		t.Errorf("after puts: %s", got)
	}
	g, ok, err := ix.Rules.Get(ctx, "a", "n", "g")
	if err != nil || !ok || g.YAML != "4" || g.Written != testNow.UnixMilli() {
		t.Errorf("Get = %+v, %v, %v", g, ok, err)
	}
	if _, ok, err := ix.Rules.Get(ctx, "a", "n", "none"); ok || err != nil {
		t.Errorf("Get of a missing group = %v, %v", ok, err)
	}
	no := errors.New("no")
	if err := ix.Rules.Put(ctx, "a", RuleGroup{Namespace: "n", Name: "g", YAML: "6"}, func(RuleSet) error { return no }); !errors.Is(err, no) {
		t.Errorf("a rejected change: %v", err)
	}
	for _, tt := range []struct {
		namespace, name string
		found           bool
		want            string
	}{
		{"n", "none", false, "4 n:g=4 n:h=2 n/2:g=1"},
		{"none", "", false, "4 n:g=4 n:h=2 n/2:g=1"},
		{"n/2", "g", true, "5 n:g=4 n:h=2"},
		{"n", "", true, "6"},
	} {
		found, err := ix.Rules.Delete(ctx, "a", tt.namespace, tt.name)
		if tt.name == "" {
			found, err = ix.Rules.DeleteNamespace(ctx, "a", tt.namespace)
		}
		if got := names(t, ix, "a"); err != nil || found != tt.found || got != tt.want {
			t.Errorf("delete %s/%s: %v, %v, %s, want %s", tt.namespace, tt.name, found, err, got, tt.want)
		}
	}
	tenants, err := ix.Rules.Tenants(ctx)
	if want := []tenant.ID{"a", "b"}; err != nil || !slices.Equal(tenants, want) {
		t.Errorf("tenants: %v, %v", tenants, err)
	}
	if _, err := ix.Tenants.Erase(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	must(t, nil, ix.Rules.Forget(ctx, "b"))
	tenants, err = ix.Rules.Tenants(ctx)
	if got := names(t, ix, "b"); err != nil || !slices.Equal(tenants, []tenant.ID{"a"}) || got != "0" {
		t.Errorf("after the erasure: %v, %v, %s", tenants, err, got)
	}
}

// TestRulesVersions checks that the versions of more tenants than fit in one read are returned.
func TestRulesVersions(t *testing.T) {
	ix, ctx := open(t), t.Context()
	var all []tenant.ID
	want := map[tenant.ID]uint64{}
	for i := range versionsInRead + 20 {
		id := tenant.ID(fmt.Sprintf("t%05d", i))
		all = append(all, id)
		if i%100 != 0 && i != versionsInRead+1 {
			continue
		}
		want[id] = 1
		must(t, nil, ix.Rules.Put(ctx, id, RuleGroup{Namespace: "n", Name: "g"}, accept))
	}
	versions, err := ix.Rules.Versions(ctx, all)
	must(t, nil, err)
	got := map[tenant.ID]uint64{}
	for id, v := range versions {
		got[id] = v.Number
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("versions %v, want %v", got, want)
	}
}

// TestCorruptRules checks that a group that cannot be decoded does not hide the others, and can be
// replaced and deleted.
func TestCorruptRules(t *testing.T) {
	ix, ctx := open(t), t.Context()
	for _, name := range []string{"a", "b", "c"} {
		must(t, nil, ix.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: name, YAML: name}, accept))
	}
	for _, name := range []string{"a", "b"} {
		must(t, nil, ix.rows.Mutate(ctx, rows.RowMutation{Key: schema.RulesKey("t"),
			Mutations: []rows.Mutation{rows.Set(rows.System, schema.RuleGroupQualifier("n", name), 0, []byte("garbage"))}}))
	}
	set, err := ix.Rules.List(ctx, "t")
	if err != nil || len(set.Groups) != 3 || !errors.Is(set.Groups[0].Err, schema.ErrCorrupt) || set.Groups[2].Err != nil {
		t.Fatalf("%+v, %v", set, err)
	}
	if _, _, err := ix.Rules.Get(ctx, "t", "n", "a"); !errors.Is(err, schema.ErrCorrupt) {
		t.Errorf("Get: %v", err)
	}
	must(t, nil, ix.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "a", YAML: "new"}, accept))
	if found, err := ix.Rules.Delete(ctx, "t", "n", "b"); !found || err != nil {
		t.Errorf("Delete: %v, %v", found, err)
	}
	if got := names(t, ix, "t"); got != "5 n:a=new n:c=c" {
		t.Errorf("after repairs: %s", got)
	}
}

// TestConcurrentRules checks that no change of concurrent writers is lost, and that concurrent writers do not exceed a limit
// on the number of groups.
func TestConcurrentRules(t *testing.T) {
	ix, ctx := open(t), t.Context()
	const writers, each, most = 4, 5, 12
	full := errors.New("full")
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := ix.Rules.Put(ctx, "t", RuleGroup{Namespace: fmt.Sprint(w), Name: fmt.Sprint(i)}, func(set RuleSet) error {
					if len(set.Groups) >= most {
						return full
					}
					return nil
				})
				if err != nil && !errors.Is(err, full) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					accepted++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	set, err := ix.Rules.List(ctx, "t")
	if err != nil || len(set.Groups) != most || accepted != most || set.Version.Number != most {
		t.Errorf("%d groups, %d accepted, version %+v, %v", len(set.Groups), accepted, set.Version, err)
	}
}

// TestRulesFaults injects every fault into every call of a change. It checks that a change that succeeds is applied exactly
// once, and that a change that fails is applied once or not at all.
func TestRulesFaults(t *testing.T) {
	changes := map[string]struct {
		do   func(context.Context, *Rules) error
		done string
	}{
		"put new": {func(ctx context.Context, r *Rules) error {
			return r.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "new", YAML: "2"}, accept)
		}, "2 n:new=2 n:old=1"},
		"delete": {func(ctx context.Context, r *Rules) error {
			found, err := r.Delete(ctx, "t", "n", "old")
			if err == nil && !found {
				return errors.New("not found")
			}
			return err
		}, "2"},
	}
	for name, c := range changes {
		for _, kind := range []faults.Kind{faults.Rejected, faults.Lost, faults.Killed, faults.KilledAfter} {
			for nth := 1; nth <= 6; nth++ {
				mem, err := rowsmemory.Open()
				must(t, nil, err)
				must(t, nil, over(t, mem).Rules.Put(t.Context(), "t", RuleGroup{Namespace: "n", Name: "old", YAML: "1"}, accept))
				plan := &faults.Plan{}
				plan.Fail(nth, kind)
				err = c.do(t.Context(), over(t, faulty.Store{Store: mem, Plan: plan}).Rules)
				got := names(t, over(t, mem), "t")
				if err == nil && got != c.done || err != nil && got != c.done && got != "1 n:old=1" {
					t.Errorf("%s with call %d %s: %v, rules %s", name, nth, kind, err, got)
				}
				// Whatever failed, rulers find the tenant if it has rules.
				if tenants, err := over(t, mem).Rules.Tenants(t.Context()); err != nil || len(tenants) != 1 {
					t.Errorf("%s with call %d %s: tenants %v, %v", name, nth, kind, tenants, err)
				}
				_ = mem.Close()
			}
		}
	}
}

// between is a row store that runs functions before and after its first CheckAndMutate. If after is set, the
// response of that call is lost.
type between struct {
	rows.Store
	before, after func()
}

func (b *between) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	before, after := b.before, b.after
	b.before, b.after = nil, nil
	if before != nil {
		before()
	}
	held, err := b.Store.CheckAndMutate(ctx, key, c, then, otherwise)
	if after != nil {
		after()
		return false, faults.ErrInjected
	}
	return held, err
}

// TestRulesBetween checks changes during which another writer changes the same rules.
func TestRulesBetween(t *testing.T) {
	ctx := t.Context()
	mem, err := rowsmemory.Open()
	must(t, nil, err)
	t.Cleanup(func() { _ = mem.Close() })
	other, store := over(t, mem), &between{Store: mem}
	ix := over(t, store)
	must(t, nil, other.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "a"}, accept))

	// The other writer adds a group after the rules were read: the check is repeated with the new group.
	store.before = func() { must(t, nil, other.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "b"}, accept)) }
	var seen []int
	err = ix.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "c"}, func(set RuleSet) error {
		seen = append(seen, len(set.Groups))
		return nil
	})
	if got := names(t, ix, "t"); err != nil || !slices.Equal(seen, []int{1, 2}) || got != "3 n:a= n:b= n:c=" {
		t.Errorf("put: %v, checks saw %v groups, rules %s", err, seen, got)
	}

	// The response of a deletion is lost, and then the other writer changes another group: the deletion reports success.
	store.after = func() {
		must(t, nil, other.Rules.Put(ctx, "t", RuleGroup{Namespace: "n", Name: "b", YAML: "2"}, accept))
	}
	found, err := ix.Rules.Delete(ctx, "t", "n", "a")
	if got := names(t, ix, "t"); err != nil || !found || got != "5 n:b=2 n:c=" {
		t.Errorf("delete: %v, %v, rules %s", found, err, got)
	}
}
