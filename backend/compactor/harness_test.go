package compactor

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
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// world is a store with everything around it, and what should be in it.
type world struct {
	t       testing.TB
	dir     string
	rows    rows.Store
	objects objects.Store
	store   *store.Store
	comp    *Compactor
	now     time.Time
	keep    time.Duration
	deleted map[tenant.ID]bool
	atOnce  int
	reg     *prometheus.Registry                             // of the compactor
	want    map[tenant.ID]map[string]map[int64]series.Sample // by labels and time
}

// wrap lets a test put something between the store and its ports.
type wrap struct {
	rows    func(rows.Store) rows.Store
	objects func(objects.Store) objects.Store
	bytes   int64 // of a pack
	atOnce  int   // tenants compacted at once; 0 is the default
}

// faulty puts the faults of a plan before both ports.
func faulty(p *faults.Plan) wrap {
	return wrap{rows: func(r rows.Store) rows.Store { return rowsfaulty.Store{Store: r, Plan: p} },
		objects: func(o objects.Store) objects.Store { return objectsfaulty.Store{Store: o, Plan: p} }}
}

func newWorld(t testing.TB, w wrap) *world {
	t.Helper()
	x := &world{t: t, dir: t.TempDir(), now: time.UnixMilli(testDay*series.DayMillis + 30*3600_000), deleted: map[tenant.ID]bool{}, want: map[tenant.ID]map[string]map[int64]series.Sample{}}
	r, err := pebble.OpenMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	x.rows, x.objects = r, memory.New()
	if w.rows != nil {
		x.rows = w.rows(x.rows)
	}
	if w.objects != nil {
		x.objects = w.objects(x.objects)
	}
	x.atOnce = w.atOnce
	x.open(w.bytes)
	return x
}

// open makes store and compactor anew, as a restart does.
func (x *world) open(packBytes int64) {
	x.t.Helper()
	keep := func(context.Context, tenant.ID) (time.Duration, error) { return x.keep, nil }
	s, err := store.Open(store.Options{Rows: x.rows, Objects: x.objects, Scratch: filepath.Join(x.dir, "scratch"), Retention: keep, PackBytes: packBytes,
		Deleted: func(_ context.Context, t tenant.ID) (bool, error) { return x.deleted[t], nil }, Now: func() time.Time { return x.now }})
	if err != nil {
		x.t.Fatal(err)
	}
	x.store = s
	x.reg = prometheus.NewRegistry()
	x.comp = New(Options{ID: "c1", Store: s, Retention: keep, Registerer: x.reg, TenantsAtOnce: x.atOnce, Now: func() time.Time { return x.now },
		Tenants: func(context.Context) (active, deleted []tenant.ID, err error) {
			for t := range x.want {
				if x.deleted[t] {
					deleted = append(deleted, t)
				} else {
					active = append(active, t)
				}
			}
			return active, deleted, nil
		}, KeepDeletions: func(tenant.ID) time.Duration { return 28 * 24 * time.Hour }})
}

const testDay = 20_000

// data is samples of one tenant by series.
type data map[string][]series.Sample

// seal writes samples as an ingester does and returns the upload.
func (x *world) seal(ingester string, byTenant map[tenant.ID]data, number uint64) store.Upload {
	x.t.Helper()
	id := ulid.MustNew(ulid.Timestamp(x.now), ulid.DefaultEntropy())
	path := filepath.Join(x.dir, "l0", id.String()+pack.Suffix)
	w, err := pack.Create(path, pack.Options{ID: id, Source: ingester, Deletions: func(tenant.ID) uint64 { return number }})
	if err != nil {
		x.t.Fatal(err)
	}
	type one struct {
		ls     labels.Labels
		chunks []series.Chunk
	}
	for _, t := range slices.Sorted(maps.Keys(byTenant)) {
		byDay := map[int64][]one{}
		for text, samples := range byTenant[t] {
			ls := parse(text)
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
					x.t.Fatal(err)
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
				x.t.Fatal(err)
			}
			for _, o := range list {
				if err := w.Add(o.ls, o.chunks); err != nil {
					x.t.Fatal(err)
				}
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		x.t.Fatal(err)
	}
	crc, err := pack.FileCRC(path)
	if err != nil {
		x.t.Fatal(err)
	}
	windows := store.WindowsOf(info)
	return store.Upload{Path: path, Object: store.L0Object(windows, ingester, id), CRC: crc, Info: info, Ingester: ingester, Sealed: x.now.UnixMilli(), Windows: windows, Settled: windows}
}

// push seals and uploads samples on the given ingesters, and expects them.
func (x *world) push(byTenant map[tenant.ID]data, ingesters ...string) {
	x.t.Helper()
	x.expect(byTenant)
	for _, ing := range ingesters {
		if err := x.store.Upload(context.Background(), x.seal(ing, byTenant, 0)); err != nil {
			x.t.Fatal(err)
		}
	}
}

// sweep sweeps as the compactor does every ten minutes.
func (x *world) sweep() {
	x.t.Helper()
	if err := x.comp.Sweep(ctx); err != nil {
		x.t.Fatal(err)
	}
}

// expect notes samples as acknowledged.
func (x *world) expect(byTenant map[tenant.ID]data) {
	for t, d := range byTenant {
		if x.want[t] == nil {
			x.want[t] = map[string]map[int64]series.Sample{}
		}
		for text, samples := range d {
			if x.want[t][text] == nil {
				x.want[t][text] = map[int64]series.Sample{}
			}
			for _, s := range samples {
				if old, ok := x.want[t][text][s.T]; !ok || series.Wins(&s, &old) {
					x.want[t][text][s.T] = s
				}
			}
		}
	}
}

func parse(text string) labels.Labels {
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

// all reads everything of a tenant.
func (x *world) read(t tenant.ID, mint, maxt int64, ms ...*labels.Matcher) map[string]map[int64]series.Sample {
	x.t.Helper()
	sel, err := x.store.Select(context.Background(), series.Request{Tenant: t, MinTime: mint, MaxTime: maxt, Matchers: ms}, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	defer sel.Release()
	out := map[string]map[int64]series.Sample{}
	if !slices.IsSortedFunc(sel.Series, func(a, b series.WithChunks) int { return labels.Compare(a.Labels, b.Labels) }) {
		x.t.Error("series are not sorted by their labels")
	}
	for _, s := range sel.Series {
		samples := map[int64]series.Sample{}
		it := series.IteratorBetween(s.Chunks, mint, maxt, nil)
		last := int64(math.MinInt64)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			at := it.AtT()
			if at <= last {
				x.t.Fatalf("series %s: %d after %d", s.Labels, at, last)
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
			x.t.Fatal(it.Err())
		}
		if _, twice := out[unparse(s.Labels)]; twice {
			x.t.Fatalf("series %s is there twice", s.Labels)
		}
		if len(samples) > 0 {
			out[unparse(s.Labels)] = samples
		}
	}
	return out
}

func same(a, b series.Sample) bool {
	if (a.H != nil) != (b.H != nil) {
		return false
	}
	if a.H != nil {
		return a.H.Equals(b.H)
	}
	return math.Float64bits(a.V) == math.Float64bits(b.V)
}

// check compares everything with what is expected.
func (x *world) check(what string) {
	x.t.Helper()
	for t, want := range x.want {
		if x.deleted[t] {
			want = nil
		}
		got := x.read(t, 0, math.MaxInt64)
		if err := differ(got, want); err != nil {
			x.t.Fatalf("%s: tenant %s: %v", what, t, err)
		}
	}
}

func differ(got, want map[string]map[int64]series.Sample) error {
	for s, samples := range want {
		if len(samples) == 0 {
			continue
		}
		for at, w := range samples {
			g, ok := got[s][at]
			if !ok {
				return fmt.Errorf("series %s: sample at %d is lost (%d of %d are there)", s, at, len(got[s]), len(samples))
			}
			if !same(g, w) {
				return fmt.Errorf("series %s: sample at %d is %v, want %v", s, at, g, w)
			}
		}
		if len(got[s]) != len(samples) {
			return fmt.Errorf("series %s: %d samples, want %d", s, len(got[s]), len(samples))
		}
	}
	for s := range got {
		if len(want[s]) == 0 {
			return fmt.Errorf("series %s should not be there", s)
		}
	}
	return nil
}

// compact runs a compaction and checks that the store is consistent after it.
func (x *world) compact(which Which) Report {
	x.t.Helper()
	r, err := x.comp.Compact(context.Background(), which)
	if err != nil {
		x.t.Fatal(err)
	}
	x.verify()
	return r
}

func (x *world) verify() {
	x.t.Helper()
	_, err := x.store.Verify(context.Background(), slices.Collect(maps.Keys(x.want)), store.VerifyOptions{Data: true, Finding: func(where string, err error) {
		x.t.Errorf("verify: %s: %v", where, err)
	}})
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *world) manifest(t tenant.ID, day int64) *schema.Manifest {
	x.t.Helper()
	c, err := x.store.Catalog(context.Background(), t, day)
	if err != nil {
		x.t.Fatal(err)
	}
	return c.Manifest
}
