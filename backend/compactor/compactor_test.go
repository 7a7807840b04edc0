package compactor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// window makes samples of many kinds of series in one window of a day.
func window(rng *rand.Rand, day int64, number int, metrics, targets int) data {
	d := data{}
	start := day*series.DayMillis + int64(number)*series.WindowMillis
	for m := range metrics {
		for k := range targets {
			text := fmt.Sprintf("__name__=metric_%d,instance=host%03d,job=test", m, k)
			var list []series.Sample
			v := float64(rng.IntN(1000))
			for i, h := range tsdbutil.GenerateTestHistograms(20) {
				s := series.Sample{T: start + int64(i)*300_000 + int64(k), V: v}
				switch (m + k) % 6 {
				case 0:
					v += float64(rng.IntN(50))
				case 1:
					v = math.Float64frombits(rng.Uint64())
				case 2:
					v = float64(rng.IntN(1000)) / 100
				case 3:
					s.T += rng.Int64N(20)
				case 4:
					if rng.IntN(10) == 0 {
						v = math.Float64frombits(value.StaleNaN)
					} else {
						v = math.Copysign(0, -1)
					}
				case 5:
					if m%2 == 1 {
						s = series.Sample{T: s.T, H: h}
					}
				}
				if rng.IntN(20) > 0 && s.T < start+series.WindowMillis {
					list = append(list, s)
				}
			}
			if len(list) > 0 {
				d[text] = list
			}
		}
	}
	return d
}

// TestEquality follows samples from L0 into L1, into a second generation with
// late data, and over a restart.
func TestEquality(t *testing.T) {
	for _, packBytes := range []int64{0, 20_000} {
		for seed := range uint64(3) {
			rng := rand.New(rand.NewPCG(seed, 7))
			x := newWorld(t, wrap{bytes: packBytes})
			for w := range 3 {
				x.push(map[tenant.ID]data{"a": window(rng, testDay, w, 4, 20), "b": window(rng, testDay, w, 7, 3)}, "i1", "i2", "i3")
			}
			x.check("L0")
			x.compact(Due)
			if m := x.manifest("a", testDay); m == nil || m.Version.Generation != 1 {
				t.Fatalf("manifest %+v", m)
			}
			x.check("L1")
			x.push(map[tenant.ID]data{"a": window(rng, testDay, 1, 5, 21)}, "i1", "i2")
			x.check("late L0")
			x.compact(All)
			if m := x.manifest("a", testDay); m.Version.Generation != 2 {
				t.Fatalf("manifest %+v", m)
			}
			x.check("second generation")
			x.open(packBytes)
			x.check("after restart")
		}
	}
}
