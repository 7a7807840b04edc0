package compactor

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// TestLargeMetric: a metric of more pages than a first read takes, in one pack
// and over several, is found whole, and a query of one series reads one page of
// it by the summaries, in three round trips.
func TestLargeMetric(t *testing.T) {
	for _, packBytes := range []int64{0, 1_000_000} {
		var n counting
		w := n.wrap()
		w.bytes = packBytes
		x := newWorld(t, w)
		d := data{}
		random := rng()
		long := func() string {
			var b strings.Builder
			for range 62 {
				fmt.Fprintf(&b, "%016x", random.Uint64())
			}
			return b.String()
		}
		for i := range 9_000 {
			text := fmt.Sprintf("__name__=large,id=%05d,long=%s", i, long())
			d[text] = []series.Sample{{T: testDay*series.DayMillis + 1000, V: float64(i)}}
		}
		d["__name__=a"] = []series.Sample{{T: testDay * series.DayMillis, V: 1}}
		d["__name__=z"] = d["__name__=a"]
		x.push(map[tenant.ID]data{"a": d}, "i1")
		x.compact(Due)
		if packs := len(x.manifest("a", testDay).Packs); (packs > 1) != (packBytes > 0) {
			t.Fatalf("%d packs", packs)
		}
		x.check("large metric")
		x.open(packBytes)
		n.zero()
		got := x.read("a", 0, math.MaxInt64, metric("large"), labels.MustNewMatcher(labels.MatchEqual, "id", "00777"))
		if len(got) != 1 {
			t.Fatalf("%d series", len(got))
		}
		t.Logf("packs of %d bytes: %d reads of rows with %d cells, %d of objects", packBytes, n.rows.Reads.Load(), n.rows.Cells.Load(), n.objects.Gets.Load())
		if packBytes == 0 && n.rows.Cells.Load() > 20 {
			t.Errorf("a query of one series reads %d cells of rows", n.rows.Cells.Load())
		}
		if got := x.read("a", 0, math.MaxInt64, metric("large"), labels.MustNewMatcher(labels.MatchEqual, "id", "none")); len(got) != 0 {
			t.Fatalf("%d series of an id that is not there", len(got))
		}
		if got := x.read("a", 0, math.MaxInt64, metric("large"), labels.MustNewMatcher(labels.MatchRegexp, "id", "0.*7|nothing")); len(got) != 900 {
			t.Fatalf("%d series by a regular expression", len(got))
		}
	}
}
