package column

import (
	"math"
	"math/rand/v2"
	"testing"
)

// decodeAll decodes the frames of encodeAll and compares the samples with those
// of list.
func decodeAll(t testing.TB, p packed, list []Series) {
	t.Helper()
	i := 0
	for _, f := range p.frames {
		table, err := Open(f, testDay)
		if err != nil {
			t.Fatal(err)
		}
		for k := range table.Len() {
			sameSeries(t, table, k, p.times[i], &list[i])
			i++
		}
	}
	if i != len(list) {
		t.Fatalf("decoded %d series, want %d", i, len(list))
	}
}

func sameSeries(t testing.TB, table *Table, k int, times []byte, want *Series) {
	t.Helper()
	if table.Floats(k) != len(want.T) || table.NeedsTimes(k) != (times != nil) {
		t.Fatalf("series %d: %d floats, want %d; needs times %v, want %v", k, table.Floats(k), len(want.T), table.NeedsTimes(k), times != nil)
	}
	ts, vs, err := table.AppendFloats(k, times, []int64{7}, []float64{7})
	if err != nil {
		t.Fatal(err)
	}
	ts, vs = ts[1:], vs[1:]
	if len(ts) != len(want.T) || len(vs) != len(want.V) {
		t.Fatalf("series %d: %d timestamps and %d values, want %d", k, len(ts), len(vs), len(want.T))
	}
	for i := range ts {
		if ts[i] != want.T[i] {
			t.Fatalf("series %d: timestamp %d = %d, want %d", k, i, ts[i], want.T[i])
		}
		if math.Float64bits(vs[i]) != math.Float64bits(want.V[i]) {
			t.Fatalf("series %d (codec %d): value %d = %v (%x), want %v (%x)", k, table.entries[k].codec, i,
				vs[i], math.Float64bits(vs[i]), want.V[i], math.Float64bits(want.V[i]))
		}
	}
	if times != nil {
		if n, err := checkTimes(times); err != nil || n != len(want.T) {
			t.Fatalf("checkTimes: %d, %v", n, err)
		}
	}
	hs, err := table.Histograms(k)
	if err != nil {
		t.Fatal(err)
	}
	if len(hs) != len(want.Histograms) {
		t.Fatalf("series %d: %d histogram chunks, want %d", k, len(hs), len(want.Histograms))
	}
	for i, h := range hs {
		w := want.Histograms[i]
		if h.MinTime != w.MinTime || h.MaxTime != w.MaxTime || h.Samples != w.Samples || h.Encoding != w.Encoding || string(h.Data) != string(w.Data) {
			t.Fatalf("series %d: histogram chunk %d = %+v, want %+v", k, i, h, w)
		}
	}
}

func TestClasses(t *testing.T) {
	for _, jitter := range []int64{0, 5} {
		rng := rand.New(rand.NewPCG(3, 4))
		ts := scrapeTimes(rng, jitter)
		var all []Series
		for _, c := range classes() {
			c.series = min(c.series, c.group)
			all = append(all, generate(rng, c, ts)...)
		}
		decodeAll(t, encodeAll(t, all), all)
	}
}
