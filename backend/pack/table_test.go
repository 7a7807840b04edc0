package pack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

const tableDay = 20_000

// tableSeries is a series that the tests write and expect to read.
type tableSeries struct {
	labels labels.Labels
	column.Series
}

// makeTable generates series of several metrics, some with many pages, with
// shared and with irregular timestamps, staleness markers and native
// histograms.
func makeTable(t *testing.T, rng *rand.Rand, metrics, most int) []tableSeries {
	t.Helper()
	start := tableDay * series.DayMillis
	columns := make([][]int64, 5)
	for i := range columns {
		ts := start + rng.Int64N(15_000)
		for ts < start+series.DayMillis && len(columns[i]) < 300 {
			columns[i] = append(columns[i], ts)
			ts += 300_000
			if i > 1 {
				ts += rng.Int64N(50)
			}
		}
	}
	var out []tableSeries
	for m := range metrics {
		n := 1 + rng.IntN(most)
		for k := range n {
			s := tableSeries{labels: labels.FromStrings("__name__", fmt.Sprintf("metric_%03d", m), "k", fmt.Sprintf("%05d", k), "x", fmt.Sprint(k%3))}
			ts := columns[rng.IntN(len(columns))]
			from := rng.IntN(len(ts))
			to := from + rng.IntN(len(ts)-from) + 1
			v := 0.0
			for _, at := range ts[from:to] {
				v += float64(rng.IntN(100)) / 10
				s.T, s.V = append(s.T, at), append(s.V, v)
			}
			if rng.IntN(5) == 0 {
				s.V[len(s.V)-1] = math.Float64frombits(value.StaleNaN)
			}
			if rng.IntN(20) == 0 {
				var b series.ChunkBuilder
				for i, h := range tsdbutil.GenerateTestHistograms(10) {
					if err := b.Add(&series.Sample{T: start + int64(i)*60_000, H: h}); err != nil {
						t.Fatal(err)
					}
				}
				b.Cut()
				s.Histograms = b.Done()
				if rng.IntN(2) == 0 {
					s.T, s.V = nil, nil
				}
			}
			out = append(out, s)
		}
	}
	return out
}

func writeTable(t *testing.T, path string, list []tableSeries, onPage func(TablePage) error) Info {
	t.Helper()
	w, err := CreateTable(path, Options{ID: ulid.Make(), Source: "test", Deletions: func(tenant.ID) uint64 { return 7 }}, "acme", tableDay, onPage)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if err := w.Add(list[i].labels, &list[i].Series); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"names", "values"} {
		if err := w.Attach(name, []byte("cell of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func openTable(t *testing.T, path string) *Reader {
	t.Helper()
	src, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Release() })
	return r
}

func sameTableSeries(t *testing.T, want *tableSeries, chunks []series.Chunk) {
	t.Helper()
	var ts []int64
	var vs []float64
	var hs []series.Chunk
	for _, c := range chunks {
		if c.Column == nil {
			hs = append(hs, c)
			continue
		}
		var err error
		if ts, vs, err = c.Column.AppendTo(ts, vs); err != nil {
			t.Fatal(err)
		}
		if ts[0] < c.MinTime || ts[len(ts)-1] > c.MaxTime {
			t.Fatalf("%s: bounds %d to %d, samples from %d to %d", want.labels, c.MinTime, c.MaxTime, ts[0], ts[len(ts)-1])
		}
	}
	bits := func(vs []float64) (out []uint64) {
		for _, v := range vs {
			out = append(out, math.Float64bits(v))
		}
		return out
	}
	if !slices.Equal(ts, want.T) || !slices.Equal(bits(vs), bits(want.V)) {
		t.Fatalf("%s: floats differ", want.labels)
	}
	if !slices.EqualFunc(hs, want.Histograms, func(a, b series.Chunk) bool {
		return a.MinTime == b.MinTime && a.MaxTime == b.MaxTime && a.Samples == b.Samples && string(a.Data) == string(b.Data)
	}) {
		t.Fatalf("%s: histograms differ", want.labels)
	}
}

// TestTableRoundTrip writes tables and reads them back in both ways: by
// scanning, as compaction does, and by pages and places, as queries do.
func TestTableRoundTrip(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		list := makeTable(t, rng, 1+rng.IntN(12), []int{3, 100, 3000}[seed%3])
		path := filepath.Join(t.TempDir(), "a"+Suffix)
		var pages []TablePage
		info := writeTable(t, path, list, func(p TablePage) error { pages = append(pages, p); return nil })
		r := openTable(t, path)
		if err := r.Verify(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := info.Sections[0]; got.Series != len(list) || got.Deletion != 7 || got != r.Info().Sections[0] {
			t.Fatalf("seed %d: section %+v", seed, got)
		}
		sc, i := r.Scan(0), 0
		for ; sc.Next(context.Background()); i++ {
			if !labels.Equal(sc.Labels(), list[i].labels) {
				t.Fatalf("seed %d: series %d is %s, want %s", seed, i, sc.Labels(), list[i].labels)
			}
			sameTableSeries(t, &list[i], sc.Chunks())
		}
		if sc.Err() != nil || i != len(list) {
			t.Fatalf("seed %d: %d of %d series, %v", seed, i, len(list), sc.Err())
		}
		readByPages(t, path, list, pages)
		cells, err := r.IndexCells(0)
		if err != nil || len(cells) != 2 || cells[1].Name != "values" || string(cells[1].Value) != "cell of values" {
			t.Fatalf("seed %d: cells %v, %v", seed, cells, err)
		}
	}
}

func readByPages(t *testing.T, path string, list []tableSeries, pages []TablePage) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	r := openTable(t, path)
	at := 0
	err = r.EachIndexPage(0, func(metric string, block []byte) error {
		if pages[at].Metric != metric || string(pages[at].Block) != string(block) {
			t.Fatalf("page %d differs from the one passed to onPage", at)
		}
		at++
		return nil
	})
	if err != nil || at != len(pages) {
		t.Fatalf("%d of %d pages, %v", at, len(pages), err)
	}
	b := labels.NewScratchBuilder(8)
	i := 0
	for _, tp := range pages {
		p, err := dec.Page(tp.Block)
		if err != nil {
			t.Fatal(err)
		}
		rows, _ := p.Rows(context.Background(), math.MinInt64, math.MaxInt64, nil, nil)
		if len(rows) != tp.Series {
			t.Fatalf("page of %s: %d rows of %d", tp.Metric, len(rows), tp.Series)
		}
		for k, ref := range p.Refs(rows, nil) {
			if got := p.Labels(rows[k], &b); !labels.Equal(got, list[i].labels) {
				t.Fatalf("series %d is %s, want %s", i, got, list[i].labels)
			}
			table, err := dec.Table(file[ref.Frame.Offset:ref.Frame.End()], p.Day())
			if err != nil {
				t.Fatal(err)
			}
			var times []byte
			if ref.Times.Length > 0 {
				if times, err = dec.Times(file[ref.Times.Offset:ref.Times.End()]); err != nil {
					t.Fatal(err)
				}
			}
			chunks, err := AppendTableChunks(nil, table, ref.Series, times, ref.MinTime, ref.MaxTime)
			if err != nil {
				t.Fatal(err)
			}
			if ref.Floats != (len(list[i].Histograms) == 0) {
				t.Fatalf("%s: Floats = %v", list[i].labels, ref.Floats)
			}
			sameTableSeries(t, &list[i], chunks)
			i++
		}
	}
	if i != len(list) {
		t.Fatalf("pages have %d series, want %d", i, len(list))
	}
}

// TestTableDamage flips a bit in at most 3,000 bytes of a small table, one at a
// time: Open or Verify must return an error and must not panic.
func TestTableDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	path := filepath.Join(t.TempDir(), "a"+Suffix)
	writeTable(t, path, makeTable(t, rng, 3, 4), nil)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	step := max(1, len(whole)/1500)
	for i := rng.IntN(step); i < len(whole); i += step {
		b := slices.Clone(whole)
		b[i] ^= 1 << rng.IntN(8)
		r, err := Open(memorySource{b})
		if err == nil {
			err = r.Verify()
		}
		if err == nil {
			t.Fatalf("no error with byte %d of %d changed", i, len(whole))
		}
	}
}

func TestTableOrder(t *testing.T) {
	w, err := CreateTable(filepath.Join(t.TempDir(), "a"+Suffix), Options{ID: ulid.Make()}, "acme", tableDay, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &column.Series{T: []int64{tableDay * series.DayMillis}, V: []float64{1}}
	if err := w.Add(labels.FromStrings("__name__", "b"), s); err != nil {
		t.Fatal(err)
	}
	if err := w.Add(labels.FromStrings("__name__", "a"), s); err == nil {
		t.Error("Add of a series out of order succeeded")
	}
	if _, err := w.Close(); err == nil {
		t.Error("Close after an error succeeded")
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	w, err = CreateTable(filepath.Join(t.TempDir(), "b"+Suffix), Options{ID: ulid.Make()}, "acme", tableDay, func(TablePage) error { return errors.New("no") })
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Add(labels.FromStrings("__name__", "b"), s), w.Finish()); err == nil {
		t.Error("no error although onPage returned one")
	}
	_ = w.Abort()
}

// FuzzTablePage decodes arbitrary bytes as pages of compacted packs, and calls the
// methods of the valid ones: none may panic.
func FuzzTablePage(f *testing.F) {
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	for seed := range uint64(3) {
		var list []tableSeries
		start := tableDay * series.DayMillis
		for i := range 1 + 20*int(seed) {
			list = append(list, tableSeries{labels: labels.FromStrings("__name__", "m", "i", fmt.Sprintf("%03d", i)),
				Series: column.Series{T: []int64{start + int64(i)*90_000, start + series.DayMillis - 1 - int64(seed)*100_000}, V: []float64{1, 2}}})
		}
		w, err := CreateTable(filepath.Join(f.TempDir(), "a"+Suffix), Options{ID: ulid.Make()}, "acme", tableDay, func(p TablePage) error {
			b, err := parseBlock(p.Block, kindPage)
			if err != nil {
				return err
			}
			raw, err := b.inflate(dec, maxPageRaw)
			f.Add(slices.Clone(raw))
			return err
		})
		if err != nil {
			f.Fatal(err)
		}
		for i := range list {
			if err := w.Add(list[i].labels, &list[i].Series); err != nil {
				f.Fatal(err)
			}
		}
		if err := errors.Join(w.Finish(), w.Abort()); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decodePage(raw)
		if err != nil || p.table == nil {
			return
		}
		page := &Page{p}
		rows, _ := page.Rows(context.Background(), math.MinInt64, math.MaxInt64, nil, nil)
		if len(rows) != page.Series() {
			t.Fatalf("%d of %d series are in the whole time range", len(rows), page.Series())
		}
		b := labels.NewScratchBuilder(4)
		for i, ref := range page.Refs(rows, nil) {
			if ref.MinTime > ref.MaxTime || ref.Samples == 0 || ref.Frame.Length < blockOverhead || ref.Series < 0 {
				t.Fatalf("series %d: %+v", i, ref)
			}
			page.Labels(rows[i], &b)
		}
		page.EachValue(rows, func(string, []string) {})
	})
}
