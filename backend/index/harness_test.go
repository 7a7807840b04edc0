package index

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

var errNotHeld = errors.New("the condition did not hold")

const testDay = 20_000

// testNow is the clock of the tests, at noon of the day after testDay.
var testNow = time.UnixMilli(testDay*series.DayMillis + 36*3600_000)

// open returns an index without rows.
func open(t *testing.T) *Index {
	t.Helper()
	r, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return over(t, r)
}

func over(t *testing.T, r rows.Store) *Index {
	t.Helper()
	ix, err := New(Options{Rows: r, Now: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// must fails the test on an error. The second argument is not used.
func must(t *testing.T, _ any, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// manifest returns the manifest of a generation with one pack of the metrics a and b.
func manifest(generation uint32) *schema.Manifest {
	return &schema.Manifest{Version: schema.Version{Generation: generation, Attempt: 7}, Day: testDay, Series: 2, Samples: 2, Written: testNow.UnixMilli(),
		Packs: []schema.PackEntry{{Object: fmt.Sprintf("l1/a/%d/%d.pk", testDay, generation), Size: 1, Series: 2, Samples: 2, FirstMetric: "a", LastMetric: "b"}}}
}

// writeIndex writes the index rows of a generation with the metrics of manifest.
func writeIndex(t *testing.T, ix *Index, d TenantDay, v schema.Version, stamp int64) {
	t.Helper()
	b := NewBuilder(ix.Codec(), v, 0, false)
	for _, metric := range []string{"a", "b"} {
		p := pack.TablePage{Metric: metric, Series: 1, Samples: 1, MinTime: d.Day * series.DayMillis, MaxTime: d.Day * series.DayMillis,
			Labels: []pack.LabelColumn{{Name: "l", Values: []string{"of " + metric}}}, Block: []byte("page of " + metric)}
		must(t, nil, b.AddPage(p))
	}
	must(t, nil, b.Finish(nil, false))
	must(t, nil, ix.Generations.Write(t.Context(), d, stamp, b))
}

// publish writes a generation and publishes it.
func publish(t *testing.T, ix *Index, id tenant.ID, generation uint32) {
	t.Helper()
	m, d := manifest(generation), TenantDay{id, testDay}
	writeIndex(t, ix, d, m.Version, testNow.UnixMilli())
	c, err := ix.Catalogs.Read(t.Context(), id, testDay)
	must(t, nil, err)
	number, err := c.Fence()
	must(t, nil, err)
	if held, err := ix.Catalogs.Publish(t.Context(), &c, m, number, testNow.UnixMilli()); !held || err != nil {
		t.Fatalf("generation %d is not published: %t, %v", generation, held, err)
	}
}
