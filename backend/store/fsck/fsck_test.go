package fsck_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/fsck"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestRebuildIndex deletes rows of the index, with and without the catalogs, and checks
// that RebuildIndex restores them from the packs.
func TestRebuildIndex(t *testing.T) {
	x := storetest.New(t, storetest.Ports{Bytes: 5000})
	for w := range 4 {
		x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, w, 5, 40), "b": storetest.Window(storetest.Rand(), storetest.Day, w, 2, 2)}, "i1")
	}
	x.Merge(storetest.Day)
	for _, tn := range []tenant.ID{"a", "b"} {
		for _, kind := range []string{"D", "M", "V"} {
			if err := x.Rows.DeletePrefix(t.Context(), schema.TenantPrefix(tn)+kind); err != nil {
				t.Fatal(err)
			}
		}
	}
	findings := 0
	if _, err := x.Fsck.Verify(t.Context(), []tenant.ID{"a", "b"}, fsck.Options{Finding: func(string, error) { findings++ }}); err != nil || findings == 0 {
		t.Fatalf("Verify without index rows: %d findings, error %v; want findings", findings, err)
	}
	report, err := x.Fsck.RebuildIndex(t.Context(), []tenant.ID{"a", "b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", report)
	x.Verify()
	x.Check("rebuilt")
	// The same for the catalogs, with an L0 pack that is not compacted.
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 7, 2, 2)}, "i1")
	if err := x.Rows.DeletePrefix(t.Context(), schema.TenantPrefix("a")); err != nil {
		t.Fatal(err)
	}
	start, end := schema.WorkRange()
	if err := x.Rows.DeletePrefix(t.Context(), start); err != nil || end <= start {
		t.Fatalf("DeletePrefix: error %v; the work rows are from %q to %q", err, start, end)
	}
	if got := x.Read("a", 0, math.MaxInt64); len(got) > 0 {
		t.Fatal("the index still has series after its rows were deleted")
	}
	found, err := x.Fsck.Tenants(t.Context())
	if err != nil || len(found) != 2 {
		t.Fatalf("Tenants() = %v, %v; want 2 tenants", found, err)
	}
	if report, err = x.Fsck.RebuildIndex(t.Context(), found, nil); err != nil || report.Recovered != 1 {
		t.Fatalf("RebuildIndex() = %+v, %v; want one recovered day", report, err)
	}
	x.Check("recovered")
	x.Verify()
	x.Merge(storetest.Day)
	x.Check("recovered and compacted")
}

// TestRecoverOtherDays checks that a day without a complete generation, and an object that is
// no pack, do not prevent the recovery of other days, and that the error names both.
func TestRecoverOtherDays(t *testing.T) {
	x := storetest.New(t, storetest.Ports{Bytes: 5000})
	for _, day := range []int64{storetest.Day - 1, storetest.Day} {
		for w := range 4 {
			x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), day, w, 5, 40)}, "i1")
		}
		x.Merge(day)
	}
	m := x.Manifest("a", storetest.Day-1)
	if len(m.Packs) < 2 {
		t.Fatalf("%d packs, want several", len(m.Packs))
	}
	x.Must(nil, x.Objects.Delete(t.Context(), m.Packs[0].Object))
	file, odd := filepath.Join(t.TempDir(), "odd"), store.ObjectDir("a")+"/20000x/odd"
	x.Must(nil, os.WriteFile(file, []byte("odd"), 0o600))
	x.Must(x.Objects.Put(t.Context(), odd, file, crc32.Checksum([]byte("odd"), crc32.MakeTable(crc32.Castagnoli))))
	x.Must(nil, x.Rows.DeletePrefix(t.Context(), schema.TenantPrefix("a")))
	report, err := x.Fsck.RebuildIndex(t.Context(), []tenant.ID{"a"}, nil)
	if err == nil || report.Recovered != 1 || report.Days != 1 {
		t.Fatalf("%+v, %v; want one day and an error", report, err)
	}
	for _, want := range []string{"tenant a", fmt.Sprintf("day %d has compacted packs but no manifest", storetest.Day-1), odd + `: "20000x" is not a day`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not contain %q: %v", want, err)
		}
	}
	if x.Manifest("a", storetest.Day) == nil {
		t.Error("the other day has no manifest")
	}
}

// TestRecoveryFences checks that an attempt from before the recovery of a lost manifest
// cannot publish, although the recovered version is the one that it read.
func TestRecoveryFences(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}, "i1")
	x.Merge(storetest.Day)
	g := x.Attempt("a", storetest.Day)
	// Lose the manifest, then recover it with the same version.
	lost := []rows.Mutation{rows.DeleteColumn(rows.Data, "m"), rows.DeleteColumn(rows.Data, "g")}
	key := ""
	if err := x.Rows.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{Qualifiers: []string{"m"}}, func(r rows.Row) bool { key = r.Key; return true }); err != nil {
		t.Fatal(err)
	}
	if err := x.Rows.Mutate(t.Context(), rows.RowMutation{Key: key, Mutations: lost}); err != nil {
		t.Fatal(err)
	}
	if r, err := x.Fsck.RebuildIndex(t.Context(), slices.Collect(maps.Keys(x.Want)), nil); err != nil || r.Recovered != 1 {
		t.Fatalf("RebuildIndex() = %+v, %v; want one recovered day", r, err)
	}
	if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish of an attempt from before the recovery: %v, want ErrConflict", err)
	}
	x.Check("recovered")
	x.Verify()
}

// TestFindings checks that Verify finds and describes each kind of damage.
func TestFindings(t *testing.T) {
	v := schema.Version{Generation: 1}
	for want, damage := range map[string]func(x *storetest.World, m *schema.Manifest) []rows.RowMutation{
		"lacks the cell": func(_ *storetest.World, m *schema.Manifest) []rows.RowMutation {
			return []rows.RowMutation{{Key: schema.PagesKey("a", "m", storetest.Day),
				Mutations: []rows.Mutation{rows.DeleteColumn(rows.Data, schema.PageQualifier(m.Version, 0, 0))}}}
		},
		"which no pack has": func(x *storetest.World, m *schema.Manifest) []rows.RowMutation {
			return []rows.RowMutation{{Key: schema.PagesKey("a", "m", storetest.Day),
				Mutations: []rows.Mutation{rows.Set(rows.Data, schema.PageQualifier(m.Version, 0, 7), x.Now.UnixMilli(), []byte("x"))}}}
		},
		"differs from the copy in its pack": func(_ *storetest.World, m *schema.Manifest) []rows.RowMutation {
			return []rows.RowMutation{{Key: schema.PagesKey("a", "m", storetest.Day),
				Mutations: []rows.Mutation{rows.Set(rows.Data, schema.PageQualifier(m.Version, 0, 0), 253402300799000, []byte("x"))}}}
		},
		"the version cell ": func(x *storetest.World, _ *schema.Manifest) []rows.RowMutation {
			cell := schema.VersionCell{Version: v}
			return []rows.RowMutation{{Key: schema.CatalogKey("a", storetest.Day),
				Mutations: []rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier),
					rows.Set(rows.Data, schema.VersionQualifier, x.Now.UnixMilli(), cell.Encode())}}}
		},
		"object listed in the index is missing": func(x *storetest.World, m *schema.Manifest) []rows.RowMutation {
			x.Must(nil, x.Objects.Delete(t.Context(), m.Packs[0].Object))
			return nil
		},
	} {
		x := storetest.New(t, storetest.Ports{})
		x.Push(map[tenant.ID]storetest.Data{"a": {"__name__=m": {{T: storetest.Day * series.DayMillis, V: 1}}}}, "i1")
		x.Merge(storetest.Day)
		for _, m := range damage(x, x.Manifest("a", storetest.Day)) {
			x.Must(nil, x.Rows.Mutate(t.Context(), m))
		}
		var found []string
		report, err := x.Fsck.Verify(t.Context(), []tenant.ID{"a"}, fsck.Options{Finding: func(where string, err error) {
			found = append(found, where+": "+err.Error())
		}})
		all := strings.Join(found, "\n")
		if err != nil || report.Findings != len(found) || len(found) == 0 || !strings.Contains(all, want) || !strings.Contains(all, "tenant a, day 20000") {
			t.Errorf("%s: %d findings, %v:\n%s", want, report.Findings, err, all)
		}
	}
}
