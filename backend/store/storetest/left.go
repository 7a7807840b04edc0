package storetest

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// NothingLeft checks that every object is named by a manifest or waits for its
// time in the garbage queue, and that the index has one generation of each day.
func (x *World) NothingLeft(where string) {
	x.T.Helper()
	ctx := context.Background()
	named := map[string]bool{}
	versions := map[string]schema.Version{}
	for t := range x.Want {
		for day := int64(Day - 3); day <= Day+3; day++ {
			m := x.Manifest(t, day)
			if m == nil {
				continue
			}
			versions[fmt.Sprint(t, day)] = m.Version
			for _, p := range m.Packs {
				named[p.Object] = true
			}
		}
	}
	err := x.Objects.List(ctx, "", func(o objects.Object) bool {
		if !named[o.Name] {
			x.T.Errorf("%s: object %s is left over", where, o.Name)
		}
		return true
	})
	if err != nil {
		x.T.Fatal(err)
	}
	err = x.Rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		for _, c := range r.Cells {
			v, _, _, _, ok := schema.ParseQualifier(c.Qualifier)
			if !ok {
				continue
			}
			t, day, known := schema.ParseNamesKey(r.Key)
			if !known {
				if t, _, day, known = schema.ParsePagesKey(r.Key); !known {
					if t, _, day, known = schema.ParseValuesKey(r.Key); !known {
						continue
					}
				}
			}
			if versions[fmt.Sprint(t, day)] != v {
				x.T.Errorf("%s: row %q has a cell of generation %s, which is not published", where, r.Key, v)
			}
		}
		return true
	})
	if err != nil {
		x.T.Fatal(err)
	}
	work, err := x.Store.Days(ctx)
	if err != nil {
		x.T.Fatal(err)
	}
	for _, d := range work {
		if len(d.Receipts) > 0 {
			x.T.Errorf("%s: day %d has %d receipts left", where, d.Day, len(d.Receipts))
		}
	}
}
