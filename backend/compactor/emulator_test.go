package compactor

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/option"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/gcs"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/bigtable"
	"github.com/palliumhq/pallium/backend/store/storetest"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestEmulators checks samples in L0, two generations, a deletion and the sweep with the adapters
// of a cluster.
func TestEmulators(t *testing.T) {
	url := programs.GCS(t)
	client, err := storage.NewClient(ctx, option.WithEndpoint(url+"/storage/v1/"), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Bucket("packs").Create(ctx, "p", nil); err != nil {
		t.Fatal(err)
	}
	o := bigtable.Options{Project: "p", Instance: "i", Table: "ix1", Emulator: programs.Bigtable(t)}
	admin, err := bigtable.OpenAdmin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Create(ctx); err != nil {
		t.Fatal(err)
	}
	x := newWorld(t, wrap{bytes: 20_000,
		rows: func(rows.Store) rows.Store {
			s, err := bigtable.Open(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		},
		objects: func(objects.Store) objects.Store {
			s, err := gcs.Open(ctx, gcs.Options{Bucket: "packs", Prefix: "pallium/", Endpoint: url})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		}})
	rng := rand.New(rand.NewPCG(4, 4))
	for w := range 2 {
		x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, w, 5, 30), "b": storetest.Window(rng, testDay, w, 2, 2)}, "i1", "i2")
	}
	x.Check("L0")
	x.compact(Due)
	x.Check("L1")
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, 1, 5, 31)}, "i1")
	x.compact(All)
	x.Check("second generation")
	x.Deleted["b"] = true
	for range 2 {
		x.Now = x.Now.Add(8 * 24 * time.Hour)
		if err := x.comp.Sweep(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	x.Check("swept")
	x.NothingLeft("swept")
}
