package compactor

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

const testDay = storetest.Day

// data is samples of one tenant by series.
type data = storetest.Data

// world is a storetest.World with a compactor.
type world struct {
	*storetest.World
	comp   *Compactor
	atOnce int
	reg    *prometheus.Registry // of the compactor
}

// wrap lets a test wrap the ports of the store.
type wrap struct {
	rows    func(rows.Store) rows.Store
	objects func(objects.Store) objects.Store
	bytes   int64 // of a pack
	atOnce  int   // Options.TenantsAtOnce
}

// faulty puts the faults of a plan before both ports.
func faulty(p *faults.Plan) wrap {
	f := storetest.Faulty(p)
	return wrap{rows: f.Rows, objects: f.Objects}
}

func newWorld(t testing.TB, w wrap) *world {
	t.Helper()
	x := &world{World: storetest.New(t, storetest.Ports{Rows: w.rows, Objects: w.objects, Bytes: w.bytes}), atOnce: w.atOnce}
	x.newCompactor()
	return x
}

// open makes store and compactor again, as a restart does.
func (x *world) open(packBytes int64) {
	x.T.Helper()
	x.Open(packBytes)
	x.newCompactor()
}

func (x *world) newCompactor() {
	x.reg = prometheus.NewRegistry()
	x.comp = New(Options{ID: "c1", Store: x.Store, Lifecycle: x.Lifecycle, Retention: x.Retention, Registerer: x.reg, TenantsAtOnce: x.atOnce, Now: func() time.Time { return x.Now },
		Tenants: func(context.Context) (active, deleted []tenant.ID, err error) {
			for t := range x.Want {
				if x.Deleted[t] {
					deleted = append(deleted, t)
				} else {
					active = append(active, t)
				}
			}
			return active, deleted, nil
		}, KeepDeletions: func(tenant.ID) time.Duration { return 28 * 24 * time.Hour }})
}

// sweep sweeps as the compactor does every ten minutes.
func (x *world) sweep() {
	x.T.Helper()
	if err := x.comp.Sweep(ctx); err != nil {
		x.T.Fatal(err)
	}
}

// compact runs a compaction and checks that the store is consistent after it.
func (x *world) compact(which Which) Report {
	x.T.Helper()
	r, err := x.comp.Compact(context.Background(), which)
	if err != nil {
		x.T.Fatal(err)
	}
	x.Verify()
	return r
}

var ctx = context.Background()

func rng() *rand.Rand { return storetest.Rand() }

func metric(name string) *labels.Matcher { return storetest.Metric(name) }
