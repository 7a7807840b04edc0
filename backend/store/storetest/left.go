package storetest

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// NothingLeft checks that every object is named by a manifest, that the index has cells
// of the published generations only, and that no receipts are left.
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
	x.onlyPublished(where, versions)
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

// onlyPublished checks that the index has no cells of other versions of a day.
func (x *World) onlyPublished(where string, versions map[string]schema.Version) {
	x.T.Helper()
	err := x.Rows.ReadRows(context.Background(), []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		t, day, ok := dayOf(r.Key)
		for _, c := range r.Cells {
			v, _, _, _, versioned := schema.ParseQualifier(c.Qualifier)
			if ok && versioned && versions[fmt.Sprint(t, day)] != v {
				x.T.Errorf("%s: row %q has a cell of generation %s, which is not published", where, r.Key, v)
			}
		}
		return true
	})
	if err != nil {
		x.T.Fatal(err)
	}
}

// dayOf returns the tenant and day of a row of names, pages or values.
func dayOf(key string) (t tenant.ID, day int64, ok bool) {
	if t, day, ok = schema.ParseNamesKey(key); ok {
		return t, day, ok
	}
	if t, _, day, ok = schema.ParsePagesKey(key); ok {
		return t, day, ok
	}
	t, _, day, ok = schema.ParseValuesKey(key)
	return t, day, ok
}
