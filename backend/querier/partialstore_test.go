package querier

import (
	"math"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestPartialOfStore damages one day of the long-term store in different layers, and checks that a
// read fails and that a partial read has all samples of the other days.
func TestPartialOfStore(t *testing.T) {
	const day = storetest.Day + 1
	object := func(x *storetest.World, change func(m *memory.Store, name string)) {
		change(x.Objects.(*memory.Store), x.Manifest("a", day).Packs[0].Object)
	}
	for name, damage := range map[string]func(x *storetest.World){
		"pack missing": func(x *storetest.World) {
			object(x, func(m *memory.Store, name string) { x.Must(nil, m.Delete(t.Context(), name)) })
		},
		"pack damaged": func(x *storetest.World) {
			object(x, func(m *memory.Store, name string) {
				b := append([]byte(nil), m.Bytes(name)...)
				for i := 40; i < len(b)/2; i++ {
					b[i] ^= 1
				}
				m.Replace(name, b)
			})
		},
		"L0 pack missing": func(x *storetest.World) {
			x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), day, 5, 3, 3)}, "i2")
			c, err := x.Store.Catalog(t.Context(), "a", day)
			x.Must(nil, err)
			x.Must(nil, x.Objects.Delete(t.Context(), c.L0[0].Object))
		},
		"rows of a metric lost": func(x *storetest.World) {
			x.Must(nil, x.Rows.Mutate(t.Context(), rows.RowMutation{Key: schema.PagesKey("a", "metric_0", day), Mutations: []rows.Mutation{rows.DeleteRow()}}))
		},
		"manifest damaged": func(x *storetest.World) {
			x.Must(nil, x.Rows.Mutate(t.Context(), rows.RowMutation{Key: schema.CatalogKey("a", day),
				Mutations: []rows.Mutation{rows.Set(rows.Data, schema.ManifestQualifier, math.MaxInt64/2000, []byte("x"))}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := storetest.New(t, storetest.Ports{})
			for d := range int64(5) {
				x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day+d, 2, 3, 3)}, "i1")
				if d < 4 {
					x.Merge(storetest.Day + d)
				}
			}
			damage(x)
			want := 0
			for _, samples := range x.Want["a"] {
				for at := range samples {
					if series.Day(at) != day {
						want++
					}
				}
			}
			for _, m := range []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", "metric_0|metric_1|metric_2"),
				labels.MustNewMatcher(labels.MatchEqual, "job", "test")} {
				x.Open(0) // without caches
				b := Both(recentPart{&part{}}, x.Store)
				req := series.Request{Tenant: "a", MaxTime: (storetest.Day + 10) * series.DayMillis, Matchers: []*labels.Matcher{m}}
				if _, err := b.Select(t.Context(), req); err == nil {
					t.Fatalf("%s: a read of the damaged day succeeds", m)
				}
				req.Partial = true
				sel, err := b.Select(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				got := 0
				for _, s := range sel.Series {
					it := series.IteratorBetween(s.Chunks, req.MinTime, req.MaxTime, nil)
					for it.Next() != chunkenc.ValNone {
						got++
					}
					if err := it.Err(); err != nil {
						t.Error(err)
					}
				}
				if len(sel.Missing) != 1 || sel.Missing[0].Day != day || got != want {
					t.Errorf("%s: %d samples, want %d; missing %v", m, got, want, sel.Missing)
				}
				sel.Release()
			}
		})
	}
}
