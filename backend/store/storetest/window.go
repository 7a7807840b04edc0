package storetest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
)

// Window returns samples of many kinds of series in one window of a day.
func Window(rng *rand.Rand, day int64, number int, metrics, targets int) Data {
	d := Data{}
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

// Rand returns a random number generator with a fixed seed.
func Rand() *rand.Rand { return rand.New(rand.NewPCG(11, 12)) }

// Metric returns a matcher for a metric name.
func Metric(name string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, "__name__", name)
}
