package bigtable

import (
	"context"
	"fmt"
	"testing"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
	"github.com/palliumhq/pallium/test/emulator"
)

// TestContract runs the contract of rows.Store against Google's emulator.
func TestContract(t *testing.T) {
	address := emulator.Bigtable(t)
	n := 0
	rowtest.Run(t, func(t *testing.T) rows.Store {
		n++
		return open(t, address, fmt.Sprintf("t%d", n))
	})
}

func open(t *testing.T, address, table string) *Store {
	t.Helper()
	ctx := context.Background()
	o := Options{Project: "p", Instance: "i", Table: table, Emulator: address}
	a, err := OpenAdmin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Create(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAdmin makes a table from nothing, from a part of it, and twice.
func TestAdmin(t *testing.T) {
	ctx := context.Background()
	o := Options{Project: "p", Instance: "i", Table: "ix1", Emulator: emulator.Bigtable(t)}
	a, err := OpenAdmin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ready := func(want bool) {
		t.Helper()
		if got, err := a.Ready(ctx); got != want || err != nil {
			t.Fatalf("ready is %v, %v", got, err)
		}
	}
	ready(false)
	if err := a.client.CreateTable(ctx, "ix1"); err != nil {
		t.Fatal(err)
	}
	ready(false)
	if err := a.client.CreateColumnFamily(ctx, "ix1", string(rows.System)); err != nil {
		t.Fatal(err)
	}
	ready(false)
	for range 2 {
		if err := a.Create(ctx); err != nil {
			t.Fatal(err)
		}
		ready(true)
	}
}
