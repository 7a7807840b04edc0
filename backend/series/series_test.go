package series

import (
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
)

func TestWindows(t *testing.T) {
	tests := []struct{ t, window, sub, day int64 }{
		{0, 0, 0, 0},
		{1, 0, 0, 0},
		{WindowMillis - 1, 0, 3 * SubChunkMillis, 0},
		{WindowMillis, WindowMillis, WindowMillis, 0},
		{DayMillis, DayMillis, DayMillis, 1},
		{-1, -WindowMillis, -SubChunkMillis, -1},
	}
	for _, tt := range tests {
		if w, s, d := WindowStart(tt.t), SubChunkStart(tt.t), Day(tt.t); w != tt.window || s != tt.sub || d != tt.day {
			t.Errorf("%d: window %d, sub-chunk %d, day %d; want %d, %d, %d", tt.t, w, s, d, tt.window, tt.sub, tt.day)
		}
	}
}

func TestDateOf(t *testing.T) {
	for day, want := range map[int64]string{0: "1970-01-01", 20_000: "2024-10-04", -1: "1969-12-31"} {
		if got := DateOf(day); got != want {
			t.Errorf("day %d: %s, want %s", day, got, want)
		}
	}
}

func TestWinsIsATotalOrder(t *testing.T) {
	stale := math.Float64frombits(value.StaleNaN)
	samples := []Sample{
		{V: 1}, {V: 2}, {V: -1}, {V: 0}, {V: math.Copysign(0, -1)}, {V: math.NaN()}, {V: stale},
		{V: math.Inf(1)}, {V: math.Inf(-1)},
		{H: tsdbutil.GenerateTestHistogram(1)}, {H: tsdbutil.GenerateTestHistogram(2)},
		{FH: tsdbutil.GenerateTestFloatHistogram(1)}, {FH: tsdbutil.GenerateTestFloatHistogram(3)},
	}
	for i := range samples {
		for j := range samples {
			a, b := &samples[i], &samples[j]
			if i == j {
				if Wins(a, b) {
					t.Errorf("Wins(%v, itself) = true", a)
				}
				continue
			}
			if Wins(a, b) == Wins(b, a) {
				t.Errorf("%v and %v: both or neither win", a, b)
			}
			for k := range samples {
				if c := &samples[k]; Wins(a, b) && Wins(b, c) && i != k && !Wins(a, c) {
					t.Errorf("not transitive: %v, %v, %v", a, b, c)
				}
			}
		}
	}
	if Wins(&Sample{V: stale}, &Sample{V: -5}) {
		t.Error("a staleness marker wins over a value")
	}
}

// expected merges samples by brute force.
func expected(sets ...[]Sample) []Sample {
	best := map[int64]Sample{}
	for _, set := range sets {
		for _, s := range set {
			if b, ok := best[s.T]; !ok || Wins(&s, &b) {
				best[s.T] = s
			}
		}
	}
	out := make([]Sample, 0, len(best))
	for _, s := range best {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Sample) int { return int(a.T - b.T) })
	return out
}

func collect(t *testing.T, it chunkenc.Iterator) []Sample {
	t.Helper()
	var out []Sample
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		var s Sample
		out = append(out, *sampleAt(it, vt, &s))
	}
	if it.Err() != nil {
		t.Fatal(it.Err())
	}
	return out
}

func equalSamples(a, b []Sample) bool {
	return slices.EqualFunc(a, b, func(x, y Sample) bool { return x.T == y.T && Compare(&x, &y) == 0 })
}

func randomSamples(r *rand.Rand, n int) []Sample {
	seen := map[int64]bool{}
	var out []Sample
	for range n {
		ts := int64(r.Intn(4*int(SubChunkMillis)/1000)) * 1000
		if seen[ts] {
			continue
		}
		seen[ts] = true
		s := Sample{T: ts}
		switch r.Intn(8) {
		case 0:
			s.H = tsdbutil.GenerateTestHistogram(int64(r.Intn(50)))
		case 1:
			s.FH = tsdbutil.GenerateTestFloatHistogram(int64(r.Intn(50)))
		case 2:
			s.V = math.Float64frombits(value.StaleNaN)
		default:
			s.V = float64(r.Intn(5)) * 0.1
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Sample) int { return int(a.T - b.T) })
	return out
}

func copySamples(in []Sample) []Sample {
	out := slices.Clone(in)
	for i := range out {
		if out[i].H != nil {
			out[i].H = out[i].H.Copy()
		}
		if out[i].FH != nil {
			out[i].FH = out[i].FH.Copy()
		}
	}
	return out
}

func TestMergeOfRandomChunks(t *testing.T) {
	for seed := range int64(200) {
		r := rand.New(rand.NewSource(seed))
		var sets [][]Sample
		var chunks []Chunk
		for range 1 + r.Intn(4) {
			set := randomSamples(r, 1+r.Intn(300))
			cs, err := Encode(copySamples(set))
			if err != nil {
				t.Fatal(err)
			}
			sets, chunks = append(sets, set), append(chunks, cs...)
		}
		r.Shuffle(len(chunks), func(i, j int) { chunks[i], chunks[j] = chunks[j], chunks[i] })
		want := expected(sets...)
		if got := collect(t, Iterator(slices.Clone(chunks), nil)); !equalSamples(got, want) {
			t.Fatalf("seed %d: iterator returned %d samples, want %d", seed, len(got), len(want))
		}
		normal, err := Normalize(slices.Clone(chunks))
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range normal {
			if i > 0 && c.MinTime <= normal[i-1].MaxTime {
				t.Fatalf("seed %d: chunks overlap after Normalize", seed)
			}
			if SubChunkStart(c.MinTime) != SubChunkStart(c.MaxTime) {
				t.Fatalf("seed %d: chunk crosses a sub-chunk boundary", seed)
			}
		}
		if got := collect(t, Iterator(normal, nil)); !equalSamples(got, want) {
			t.Fatalf("seed %d: Normalize lost or changed samples", seed)
		}
		checkBetween(t, r, chunks, want)
		for range 20 {
			at := int64(r.Intn(5 * int(SubChunkMillis)))
			it := Iterator(slices.Clone(chunks), nil)
			vt := it.Seek(at)
			i, _ := slices.BinarySearchFunc(want, at, func(s Sample, t int64) int { return int(s.T - t) })
			if (vt == chunkenc.ValNone) != (i == len(want)) {
				t.Fatalf("seed %d: Seek(%d) = %v", seed, at, vt)
			}
			if vt == chunkenc.ValNone {
				continue
			}
			var s Sample
			rest := append([]Sample{*sampleAt(it, vt, &s)}, collect(t, it)...)
			if !equalSamples(rest, want[i:]) {
				t.Fatalf("seed %d: Seek(%d) is followed by wrong samples", seed, at)
			}
		}
	}
}

// checkBetween reads random ranges, with Next only and with seeks in between.
func checkBetween(t *testing.T, r *rand.Rand, chunks []Chunk, want []Sample) {
	t.Helper()
	var reuse chunkenc.Iterator
	for range 20 {
		mint := int64(r.Intn(5*int(SubChunkMillis))) - SubChunkMillis/2
		maxt := mint + int64(r.Intn(3*int(SubChunkMillis)))
		var in []Sample
		for _, s := range want {
			if s.T >= mint && s.T <= maxt {
				in = append(in, s)
			}
		}
		reuse = IteratorBetween(slices.Clone(chunks), mint, maxt, reuse)
		if got := collect(t, reuse); !equalSamples(got, in) {
			t.Fatalf("[%d, %d]: %d samples, want %d", mint, maxt, len(got), len(in))
		}
		if reuse.Next() != chunkenc.ValNone || reuse.Seek(mint) != chunkenc.ValNone {
			t.Fatal("iterator returned a sample after its end")
		}
		reuse = IteratorBetween(slices.Clone(chunks), mint, maxt, reuse)
		var smp Sample
		for i := 0; ; {
			var vt chunkenc.ValueType
			if r.Intn(3) == 0 {
				at := mint - 1000 + int64(r.Intn(int(maxt-mint)+2000))
				vt = reuse.Seek(at)
				for i < len(in) && in[i].T < at && (i == 0 || in[i-1].T < at) {
					i++
				}
				if i > 0 && in[i-1].T >= at { // already there: Seek stays
					i--
				}
			} else {
				vt = reuse.Next()
			}
			if (vt == chunkenc.ValNone) != (i >= len(in)) {
				t.Fatalf("[%d, %d]: %v at sample %d of %d", mint, maxt, vt, i, len(in))
			}
			if vt == chunkenc.ValNone {
				break
			}
			if got := sampleAt(reuse, vt, &smp); got.T != in[i].T || Compare(got, &in[i]) != 0 {
				t.Fatalf("[%d, %d]: %v, want %v", mint, maxt, *got, in[i])
			}
			i++
		}
	}
}

func TestSnapshotDoesNotChange(t *testing.T) {
	var b ChunkBuilder
	for i := range int64(10) {
		if err := b.AddFloat(i*1000, float64(i)); err != nil {
			t.Fatal(err)
		}
	}
	snap, ok := b.Snapshot()
	if !ok {
		t.Fatal("the builder has no open chunk")
	}
	for i := range int64(100) {
		if err := b.AddFloat(10_000+i*1000, float64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, Iterator([]Chunk{snap}, nil)); len(got) != 10 || got[9].V != 9 {
		t.Errorf("snapshot changed to %v", got)
	}
}

func TestChunksAreCappedBelowTheEncodingsLimit(t *testing.T) {
	var b ChunkBuilder
	for i := range int64(100_000) {
		if err := b.AddFloat(i, float64(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.Cut()
	n := 0
	for _, c := range b.Done() {
		if c.Samples > MaxChunkSamples {
			t.Errorf("chunk has %d samples, want at most %d", c.Samples, MaxChunkSamples)
		}
		n += c.Samples
	}
	if n != 100_000 {
		t.Errorf("%d samples, want 100000", n)
	}
}

func TestOutcome(t *testing.T) {
	var o, p Outcome
	for range 7 {
		o.Reject("too_old", "sample is too old", 1, func() string { return "up" })
	}
	p.Reject("too_old", "sample is too old", 2, func() string { return "down" })
	p.Reject("limit", "limit of 5 series reached", 1, nil)
	o.Add(p)
	want := "sample is too old (too_old): 9 samples rejected, first: up, up, up, up, up\nlimit of 5 series reached (limit): 1 samples rejected"
	if got := o.String(); got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
