package schema

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// rowOf has the parts of a row key that contains a metric or label name.
type rowOf struct {
	tenant tenant.ID
	name   string
	day    int64
}

func (r rowOf) compare(o rowOf) int {
	return cmp.Or(strings.Compare(string(r.tenant), string(o.tenant)), strings.Compare(r.name, o.name), cmp.Compare(r.day, o.day))
}

// TestRowsSort checks that rows of pages and of values sort by tenant, then name, then day, for names
// that are not truncated, so that the days of a metric are one range.
func TestRowsSort(t *testing.T) {
	const seed = 11
	rng := rand.New(rand.NewPCG(seed, 0))
	tenants := []tenant.ID{"!", "a", "a!", "a-1", "aa", "b", "zz"}
	var list []rowOf
	for range 3000 {
		r := rowOf{tenants[rng.IntN(len(tenants))], randomName(rng), rng.Int64N(1 << (1 + rng.IntN(31)))}
		if len(r.name) <= maxText {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, rowOf.compare)
	list = slices.Compact(list)
	for what, key := range map[string]func(tenant.ID, string, int64) string{"pages": PagesKey, "values": ValuesKey} {
		for i := 1; i < len(list); i++ {
			a, b := list[i-1], list[i]
			if key(a.tenant, a.name, a.day) >= key(b.tenant, b.name, b.day) {
				t.Fatalf("seed %d: row of %s %+v does not sort before that of %+v", seed, what, a, b)
			}
		}
	}
}

// TestRangesOfNames checks that the range for some days of a name contains exactly the rows of that name,
// tenant and kind on these days, also for truncated names.
func TestRangesOfNames(t *testing.T) {
	const seed = 12
	rng := rand.New(rand.NewPCG(seed, 0))
	long := strings.Repeat("m", maxText)
	names := []string{"", "a", "a\x00", "a\x01", "b", long, long + "x", long + "y", long + "\x00"}
	type row struct {
		rowOf
		values bool
		key    string
	}
	var all []row
	for _, id := range []tenant.ID{"a", "a!", "b"} {
		for _, n := range names {
			for _, d := range []int64{0, 1, 255, 256, 20000, MaxDay} {
				all = append(all, row{rowOf{id, n, d}, false, PagesKey(id, n, d)}, row{rowOf{id, n, d}, true, ValuesKey(id, n, d)})
			}
		}
	}
	for range 500 {
		of := all[rng.IntN(len(all))]
		first := rng.Int64N(1 << (1 + rng.IntN(31)))
		last := first + rng.Int64N(1<<(1+rng.IntN(31)))
		bound := PagesRange
		if of.values {
			bound = ValuesRange
		}
		start, end := bound(of.tenant, of.name, first, last)
		for _, r := range all {
			want := r.tenant == of.tenant && r.name == of.name && r.values == of.values && r.day >= first && r.day <= last
			if got := r.key >= start && r.key < end; got != want {
				t.Fatalf("seed %d: row of %q, %q, day %d is in days %d to %d of %q, %q: %v, want %v", seed, r.tenant, r.name, r.day, first, last, of.tenant, of.name, got, want)
			}
		}
	}
}
