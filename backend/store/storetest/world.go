// Package storetest provides a complete long-term store in memory together with its
// expected contents, for tests of the store, of its subpackages and of the compactor.
package storetest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/fsck"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// Day is the UTC day to which tests write.
const Day = 20_000

// World is a store with its ports, index and subpackages, and its expected contents.
type World struct {
	T         testing.TB
	Dir       string
	Rows      rows.Store
	Objects   objects.Store
	Index     *index.Index
	Store     *store.Store
	Lifecycle *lifecycle.Keeper
	Fsck      *fsck.Checker
	Now       time.Time     // at first 30 hours after the beginning of Day
	Keep      time.Duration // retention of all tenants; 0 means forever
	Deleted   map[tenant.ID]bool
	Want      map[tenant.ID]map[string]map[int64]series.Sample // by labels and time
}

// Ports lets a test wrap the row store and the object store.
type Ports struct {
	Rows    func(rows.Store) rows.Store
	Objects func(objects.Store) objects.Store
	Bytes   int64 // store.Options.PackBytes
}

// Faulty wraps both ports to inject the faults of a plan.
func Faulty(p *faults.Plan) Ports {
	return Ports{Rows: func(r rows.Store) rows.Store { return rowsfaulty.Store{Store: r, Plan: p} },
		Objects: func(o objects.Store) objects.Store { return objectsfaulty.Store{Store: o, Plan: p} }}
}

// New returns a world without samples. Its stores are in memory.
func New(t testing.TB, p Ports) *World {
	t.Helper()
	x := &World{T: t, Dir: t.TempDir(), Now: time.UnixMilli(Day*series.DayMillis + 30*3600_000), Deleted: map[tenant.ID]bool{},
		Want: map[tenant.ID]map[string]map[int64]series.Sample{}}
	r, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	x.Rows, x.Objects = r, memory.New()
	if p.Rows != nil {
		x.Rows = p.Rows(x.Rows)
	}
	if p.Objects != nil {
		x.Objects = p.Objects(x.Objects)
	}
	x.Open(p.Bytes)
	return x
}

// Open opens the store again, as after a restart.
func (x *World) Open(packBytes int64) {
	x.T.Helper()
	x.Store = x.open(x.Rows, x.Objects, "scratch", packBytes, 0)
	x.Index = x.Store.Options().Index
	x.Lifecycle, x.Fsck = lifecycle.New(x.Store), fsck.New(x.Store)
}

// Other returns the store of another process over the given ports, whose clock is ahead
// by the given time.
func (x *World) Other(r rows.Store, o objects.Store, name string, ahead time.Duration) *store.Store {
	x.T.Helper()
	return x.open(r, o, "scratch-"+name, 0, ahead)
}

func (x *World) open(r rows.Store, o objects.Store, scratch string, packBytes int64, ahead time.Duration) *store.Store {
	x.T.Helper()
	now := func() time.Time { return x.Now.Add(ahead) }
	ix, err := index.New(index.Options{Rows: r, Now: now})
	if err != nil {
		x.T.Fatal(err)
	}
	s, err := store.Open(store.Options{Index: ix, Objects: o, Scratch: filepath.Join(x.Dir, scratch), PackBytes: packBytes,
		Retention: x.Retention,
		Deleted:   func(_ context.Context, t tenant.ID) (bool, error) { return x.Deleted[t], nil }, Now: now})
	if err != nil {
		x.T.Fatal(err)
	}
	return s
}

// Attempt starts a generation of a tenant's day from its current catalog.
func (x *World) Attempt(t tenant.ID, day int64) *store.Generation {
	x.T.Helper()
	c, err := x.Store.Catalog(x.T.Context(), t, day)
	if err != nil {
		x.T.Fatal(err)
	}
	g, err := x.Store.NewGeneration(x.T.Context(), c, 0, nil)
	if err != nil {
		x.T.Fatal(err)
	}
	return g
}

// Retention returns the retention of a tenant, for store.Options.
func (x *World) Retention(context.Context, tenant.ID) (time.Duration, error) { return x.Keep, nil }

// Data is the samples of one tenant by series, in the notation of Parse.
type Data map[string][]series.Sample

// Seal writes samples into a local pack, as an ingester does, and returns the upload.
func (x *World) Seal(ingester string, byTenant map[tenant.ID]Data, number uint64) store.Upload {
	x.T.Helper()
	id := ulid.MustNew(ulid.Timestamp(x.Now), ulid.DefaultEntropy())
	path := filepath.Join(x.Dir, "l0", id.String()+pack.Suffix)
	w, err := pack.Create(path, pack.Options{ID: id, Source: ingester, Deletions: func(tenant.ID) uint64 { return number }})
	if err != nil {
		x.T.Fatal(err)
	}
	type one struct {
		ls     labels.Labels
		chunks []series.Chunk
	}
	for _, t := range slices.Sorted(maps.Keys(byTenant)) {
		byDay := map[int64][]one{}
		for text, samples := range byTenant[t] {
			ls := Parse(text)
			split := map[int64][]series.Sample{}
			for _, s := range samples {
				if s.H != nil {
					s.H = s.H.Copy()
				}
				split[series.Day(s.T)] = append(split[series.Day(s.T)], s)
			}
			for day, part := range split {
				chunks, err := series.Encode(part)
				if err != nil {
					x.T.Fatal(err)
				}
				byDay[day] = append(byDay[day], one{ls, chunks})
			}
		}
		for _, day := range slices.Sorted(maps.Keys(byDay)) {
			list := byDay[day]
			slices.SortFunc(list, func(a, b one) int {
				return cmp.Or(strings.Compare(a.ls.Get("__name__"), b.ls.Get("__name__")), labels.Compare(a.ls, b.ls))
			})
			if err := w.StartSection(t, day, []series.MetricMetadata{{Metric: list[0].ls.Get("__name__")}}); err != nil {
				x.T.Fatal(err)
			}
			for _, o := range list {
				if err := w.Add(o.ls, o.chunks); err != nil {
					x.T.Fatal(err)
				}
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		x.T.Fatal(err)
	}
	crc, err := pack.FileCRC(path)
	if err != nil {
		x.T.Fatal(err)
	}
	windows := store.WindowsOf(info)
	return store.Upload{Path: path, Object: store.L0Object(windows, ingester, id), CRC: crc, Info: info, Ingester: ingester,
		Sealed: x.Now.UnixMilli(), Windows: windows, Cleared: windows}
}

// Push seals and uploads samples from each of the given ingesters, and calls Expect.
func (x *World) Push(byTenant map[tenant.ID]Data, ingesters ...string) {
	x.T.Helper()
	x.Expect(byTenant)
	for _, ing := range ingesters {
		if err := x.Store.Upload(context.Background(), x.Seal(ing, byTenant, 0)); err != nil {
			x.T.Fatal(err)
		}
	}
}

// Expect adds samples to the expected contents.
func (x *World) Expect(byTenant map[tenant.ID]Data) {
	for t, d := range byTenant {
		if x.Want[t] == nil {
			x.Want[t] = map[string]map[int64]series.Sample{}
		}
		for text, samples := range d {
			if x.Want[t][text] == nil {
				x.Want[t][text] = map[int64]series.Sample{}
			}
			for _, s := range samples {
				if old, ok := x.Want[t][text][s.T]; !ok || series.Wins(&s, &old) {
					x.Want[t][text][s.T] = s
				}
			}
		}
	}
}

// Parse parses the labels of a series: name=value pairs, separated by commas.
func Parse(text string) labels.Labels {
	b := labels.NewScratchBuilder(4)
	for pair := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(pair, "=")
		b.Add(name, value)
	}
	b.Sort()
	return b.Labels()
}

func unparse(ls labels.Labels) string {
	var out []string
	ls.Range(func(l labels.Label) { out = append(out, l.Name+"="+l.Value) })
	return strings.Join(out, ",")
}

// Read returns the samples of a tenant in a range, by series and time.
func (x *World) Read(t tenant.ID, mint, maxt int64, ms ...*labels.Matcher) map[string]map[int64]series.Sample {
	x.T.Helper()
	sel, err := x.Store.Select(context.Background(), series.Request{Tenant: t, MinTime: mint, MaxTime: maxt, Matchers: ms}, nil)
	if err != nil {
		x.T.Fatal(err)
	}
	defer sel.Release()
	out := map[string]map[int64]series.Sample{}
	if !slices.IsSortedFunc(sel.Series, func(a, b series.WithChunks) int { return labels.Compare(a.Labels, b.Labels) }) {
		x.T.Error("series are not sorted by their labels")
	}
	for _, s := range sel.Series {
		samples := map[int64]series.Sample{}
		it := series.IteratorBetween(s.Chunks, mint, maxt, nil)
		last := int64(math.MinInt64)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			at := it.AtT()
			if at <= last {
				x.T.Fatalf("series %s: sample at %d follows sample at %d", s.Labels, at, last)
			}
			last = at
			switch vt {
			case chunkenc.ValHistogram:
				var h *histogram.Histogram
				_, h = it.AtHistogram(nil)
				samples[at] = series.Sample{T: at, H: h}
			default:
				_, v := it.At()
				samples[at] = series.Sample{T: at, V: v}
			}
		}
		if it.Err() != nil {
			x.T.Fatal(it.Err())
		}
		if _, twice := out[unparse(s.Labels)]; twice {
			x.T.Fatalf("series %s appears twice", s.Labels)
		}
		if len(samples) > 0 {
			out[unparse(s.Labels)] = samples
		}
	}
	return out
}

// Same reports whether two samples have the same value, bit by bit.
func Same(a, b series.Sample) bool {
	if (a.H != nil) != (b.H != nil) {
		return false
	}
	if a.H != nil {
		return a.H.Equals(b.H)
	}
	return math.Float64bits(a.V) == math.Float64bits(b.V)
}

// Check compares the samples of all tenants with the expected contents.
func (x *World) Check(what string) {
	x.T.Helper()
	for t, want := range x.Want {
		if x.Deleted[t] {
			want = nil
		}
		got := x.Read(t, 0, math.MaxInt64)
		if err := Differ(got, want); err != nil {
			x.T.Fatalf("%s: tenant %s: %v", what, t, err)
		}
	}
}

// Differ returns an error that describes the first difference between got and want.
func Differ(got, want map[string]map[int64]series.Sample) error {
	for s, samples := range want {
		if len(samples) == 0 {
			continue
		}
		for at, w := range samples {
			g, ok := got[s][at]
			if !ok {
				return fmt.Errorf("series %s: sample at %d is missing (found %d of %d)", s, at, len(got[s]), len(samples))
			}
			if !Same(g, w) {
				return fmt.Errorf("series %s: sample at %d is %v, want %v", s, at, g, w)
			}
		}
		if len(got[s]) != len(samples) {
			return fmt.Errorf("series %s: %d samples, want %d", s, len(got[s]), len(samples))
		}
	}
	for s := range got {
		if len(want[s]) == 0 {
			return fmt.Errorf("unexpected series %s", s)
		}
	}
	return nil
}

// Verify checks that the store is consistent.
func (x *World) Verify() {
	x.T.Helper()
	_, err := x.Fsck.Verify(context.Background(), slices.Collect(maps.Keys(x.Want)),
		fsck.Options{Data: true, Finding: func(where string, err error) {
			x.T.Errorf("verify: %s: %v", where, err)
		}})
	if err != nil {
		x.T.Fatal(err)
	}
}

// Manifest returns the manifest of a tenant's day, or nil.
func (x *World) Manifest(t tenant.ID, day int64) *schema.Manifest {
	x.T.Helper()
	c, err := x.Store.Catalog(context.Background(), t, day)
	if err != nil {
		x.T.Fatal(err)
	}
	return c.Manifest
}

// Must fails the test on an error. It ignores the first argument, so that it can take
// the results of a call.
func (x *World) Must(_ any, err error) {
	x.T.Helper()
	if err != nil {
		x.T.Fatal(err)
	}
}
