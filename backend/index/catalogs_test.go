package index

import (
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// readCatalog reads the catalog of tenant a's testDay.
func readCatalog(t *testing.T, ix *Index) Catalog {
	t.Helper()
	c, err := ix.Catalogs.Read(t.Context(), "a", testDay)
	must(t, nil, err)
	return c
}

// TestConditions checks that each conditional write of a catalog is applied if the version cell
// is as it was read, and changes nothing if the cell has changed.
func TestConditions(t *testing.T) {
	for name, write := range map[string]func(*Index, *Catalog) (bool, error){
		"publish": func(ix *Index, c *Catalog) (bool, error) {
			return ix.Catalogs.Publish(t.Context(), c, manifest(9), 5, 1)
		},
		"replace": func(ix *Index, c *Catalog) (bool, error) {
			return ix.Catalogs.Replace(t.Context(), c, manifest(9), 5, 1)
		},
		"raise fence": func(ix *Index, c *Catalog) (bool, error) { return ix.Catalogs.RaiseFence(t.Context(), c) },
		"hide": func(ix *Index, c *Catalog) (bool, error) {
			err := ix.Catalogs.Hide(t.Context(), c)
			now := readCatalog(t, ix)
			return now.Manifest == nil, err
		},
		"forget fence": func(ix *Index, c *Catalog) (bool, error) {
			err := ix.Catalogs.ForgetFence(t.Context(), c)
			now := readCatalog(t, ix)
			_, left := now.VersionTime()
			return !left, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ix := open(t)
			publish(t, ix, "a", 1)
			stale := readCatalog(t, ix)
			must(t, nil, mustHold(ix.Catalogs.RaiseFence(t.Context(), &stale)))
			before := readCatalog(t, ix)
			if held, err := write(ix, &stale); held || err != nil {
				t.Errorf("write with a stale catalog: held %t, error %v", held, err)
			}
			if now := readCatalog(t, ix); now.Version() != before.Version() || string(now.cell) != string(before.cell) || now.Manifest == nil {
				t.Errorf("a rejected write changed the catalog: %+v", now)
			}
			if held, err := write(ix, &before); !held || err != nil {
				t.Errorf("write with the current catalog: held %t, error %v", held, err)
			}
		})
	}
}

func mustHold(held bool, err error) error {
	if err == nil && !held {
		return errNotHeld
	}
	return err
}

// TestFence checks that RaiseFence keeps the version, that Publish writes the given fence
// number, and that Hide raises the number.
func TestFence(t *testing.T) {
	ix := open(t)
	number := func() uint64 {
		t.Helper()
		c := readCatalog(t, ix)
		n, err := c.Fence()
		must(t, nil, err)
		return n
	}
	c := readCatalog(t, ix)
	must(t, nil, mustHold(ix.Catalogs.RaiseFence(t.Context(), &c)))
	if n := number(); n != 1 {
		t.Errorf("fence %d of a day without a manifest, want 1", n)
	}
	publish(t, ix, "a", 1)
	c = readCatalog(t, ix)
	if cell, err := c.VersionCell(); err != nil || cell.Version != c.Manifest.Version || cell.Fence != 1 {
		t.Errorf("published: %+v, %v", cell, err)
	}
	must(t, nil, mustHold(ix.Catalogs.RaiseFence(t.Context(), &c)))
	c = readCatalog(t, ix)
	if n := number(); n != 2 || c.Version().Generation != 1 {
		t.Errorf("raised: fence %d of generation %d", n, c.Version().Generation)
	}
	must(t, nil, ix.Catalogs.Hide(t.Context(), &c))
	c = readCatalog(t, ix)
	if n := number(); n != 3 || !c.Empty() {
		t.Errorf("hidden: fence %d, %+v", n, c)
	}
	if at, ok := c.VersionTime(); !ok || at != testNow.UnixMilli() {
		t.Errorf("VersionTime() of a hidden day = %d, %t", at, ok)
	}
}

// TestL0Cells checks that Publish removes the L0 cells that were read and no others.
func TestL0Cells(t *testing.T) {
	ix := open(t)
	first, late := ulid.ULID{1}, ulid.ULID{2}
	add := func(id ulid.ULID, days ...TenantDay) {
		t.Helper()
		var cells []L0Cell
		for _, d := range days {
			cells = append(cells, L0Cell{TenantDay: d, Stamp: testNow.UnixMilli(), Entry: schema.L0Entry{Object: "l0/" + id.String(), ObjectSize: 10, Length: 5, Samples: 1, Series: 1}})
		}
		must(t, nil, ix.Catalogs.AddL0(t.Context(), id, cells))
	}
	a, b := TenantDay{"a", testDay}, TenantDay{"b", testDay}
	add(first, a, b)
	c := readCatalog(t, ix)
	add(late, a)
	must(t, nil, mustHold(ix.Catalogs.Publish(t.Context(), &c, manifest(1), 0, testNow.UnixMilli())))
	if c = readCatalog(t, ix); len(c.L0) != 1 || c.L0[0].ID != late || c.Manifest == nil {
		t.Errorf("after the publication: %+v", c.L0)
	}
	with := func(id ulid.ULID) []TenantDay {
		t.Helper()
		list, err := ix.Catalogs.WithL0(t.Context(), id, []TenantDay{a, b, {"c", testDay}})
		must(t, nil, err)
		return list
	}
	if got := with(first); len(got) != 1 || got[0] != b {
		t.Errorf("days with the first pack: %v", got)
	}
	must(t, nil, ix.RemoveL0(t.Context(), first, []TenantDay{b}, nil))
	if got := with(first); len(got) != 0 {
		t.Errorf("days with the first pack after RemoveL0: %v", got)
	}
	must(t, nil, ix.Catalogs.DropL0(t.Context(), &c))
	if c = readCatalog(t, ix); len(c.L0) != 0 || c.Manifest == nil {
		t.Errorf("dropped: %+v", c)
	}
}

// TestOldCells checks that Readable ignores cells older than CellLife, and that Held and All
// return them.
func TestOldCells(t *testing.T) {
	ix := open(t)
	publish(t, ix, "a", 1)
	ix.Catalogs.now = func() time.Time { return testNow.Add(CellLife + time.Hour) }
	if list, _, err := ix.Catalogs.Readable(t.Context(), "a", 0, schema.MaxDay); err != nil || len(list) != 0 {
		t.Errorf("Readable() = %v, %v", list, err)
	}
	list, _, err := ix.Catalogs.Held(t.Context(), "a", 0, schema.MaxDay)
	if err != nil || len(list) != 1 {
		t.Errorf("Held() = %v, %v", list, err)
	}
	must(t, nil, ix.Catalogs.Hide(t.Context(), &list[0]))
	if list, _, err = ix.Catalogs.Held(t.Context(), "a", 0, schema.MaxDay); err != nil || len(list) != 0 {
		t.Errorf("Held() of a hidden day = %v, %v", list, err)
	}
	if list, _, err = ix.Catalogs.All(t.Context(), "a", 0, schema.MaxDay); err != nil || len(list) != 1 {
		t.Errorf("All() = %v, %v", list, err)
	}
}

// TestForeignRows checks that rows and cells that cannot be decoded are errors, and not ignored.
func TestForeignRows(t *testing.T) {
	for name, m := range map[string]rows.Mutation{
		"manifest":    rows.Set(rows.Data, schema.ManifestQualifier, 0, []byte("x")),
		"L0 cell":     rows.Set(rows.Data, schema.L0Prefix+"short", 0, nil),
		"L0 entry":    rows.Set(rows.Data, schema.L0Qualifier(ulid.ULID{1}), 0, []byte("x")),
		"deletion":    rows.Set(rows.System, schema.TombstoneQualifier(1), 0, []byte("x")),
		"reservation": rows.Set(rows.System, schema.PendingQualifier(1), 0, []byte("x")),
	} {
		ix := open(t)
		key := schema.CatalogKey("a", testDay)
		if m.Family == rows.System {
			key = schema.TenantKey("a")
		}
		must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: key, Mutations: []rows.Mutation{m}}))
		if c, _, err := ix.Catalogs.Day(t.Context(), tenant.ID("a"), testDay); err == nil {
			t.Errorf("%s: %+v without an error", name, c)
		}
	}
}
