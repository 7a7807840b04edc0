package ingester

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

type faultyDisk struct{ plan *faults.Plan }

func (d faultyDisk) Write(path string, data []byte) error {
	return d.plan.Do(context.Background(), "Write", func() error { return osDisk{}.Write(path, data) })
}

func (d faultyDisk) Sync(dirs []string) error {
	return d.plan.Do(context.Background(), "Sync", func() error { return osDisk{}.Sync(dirs) })
}

func (d faultyDisk) Remove(path string) error {
	return d.plan.Do(context.Background(), "Remove", func() error { return osDisk{}.Remove(path) })
}

type faultyLongTerm struct {
	LongTerm
	plan *faults.Plan
}

func (l faultyLongTerm) Upload(ctx context.Context, u store.Upload) error {
	return l.plan.Do(ctx, "Upload", func() error { return l.LongTerm.Upload(ctx, u) })
}

func (l faultyLongTerm) Intend(ctx context.Context, ingester string, windows map[store.Window]schema.Intent) error {
	return l.plan.Do(ctx, "Intend", func() error { return l.LongTerm.Intend(ctx, ingester, windows) })
}

func (l faultyLongTerm) ClearIntents(ctx context.Context, ingester string, windows []store.Window) error {
	return l.plan.Do(ctx, "ClearIntents", func() error { return l.LongTerm.ClearIntents(ctx, ingester, windows) })
}

func (l faultyLongTerm) Intents(ctx context.Context, ingester string) (out []store.Window, err error) {
	err = l.plan.Do(ctx, "Intents", func() (err error) { out, err = l.LongTerm.Intents(ctx, ingester); return err })
	return out, err
}

func (l faultyLongTerm) Consumed(ctx context.Context, info pack.Info) (ok bool, err error) {
	err = l.plan.Do(ctx, "Consumed", func() (err error) { ok, err = l.LongTerm.Consumed(ctx, info); return err })
	return ok, err
}

func (l faultyLongTerm) SetAside(ctx context.Context, list []store.AsideOf) error {
	return l.plan.Do(ctx, "SetAside", func() error { return l.LongTerm.SetAside(ctx, list) })
}

func (l faultyLongTerm) ClearAside(ctx context.Context, list []store.AsideOf) error {
	return l.plan.Do(ctx, "ClearAside", func() error { return l.LongTerm.ClearAside(ctx, list) })
}

func (l faultyLongTerm) Asides(ctx context.Context) (out []store.AsideOf, err error) {
	err = l.plan.Do(ctx, "Asides", func() (err error) { out, err = l.LongTerm.Asides(ctx); return err })
	return out, err
}

func (l faultyLongTerm) ActiveDeletions(ctx context.Context, tenants []tenant.ID, visit func(tenant.ID, schema.Tombstone) error) error {
	return l.plan.Do(ctx, "ActiveDeletions", func() error { return l.LongTerm.ActiveDeletions(ctx, tenants, visit) })
}

// TestAsideCrashes injects every kind of fault at every call that setting aside
// makes to the disk and to the long-term store: when series are set aside, when
// more samples of the same windows are added, when some are accepted at a start,
// and when some are dropped. After each fault no sample is wrong or missing and no
// window is without an intent, a receipt or a record. After all steps are repeated
// without faults, the records match the files.
func TestAsideCrashes(t *testing.T) {
	total := asideCrash(t, 0, faults.None)
	kinds := []faults.Kind{faults.Rejected, faults.Lost, faults.Killed, faults.KilledAfter}
	t.Logf("%d calls, %d kinds of fault", total, len(kinds))
	if total < 12 {
		t.Fatalf("only %d calls: the test does not cover all steps", total)
	}
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= total; at++ {
				asideCrash(t, at, kind)
			}
		})
	}
}

// asideCrash runs the steps of TestAsideCrashes with a fault at one call. It
// returns the number of calls.
func asideCrash(t *testing.T, at int, kind faults.Kind) int {
	t.Helper()
	in := &faults.Plan{}
	in.Fail(at, kind)
	where := func() string {
		name, names := "", in.Calls()
		if at > 0 && at <= len(names) {
			name = names[at-1]
		}
		return fmt.Sprintf("%s at call %d (%s)", kind, at, name)
	}
	b, l := withLongTerm(t)
	b.reopen(faultyLongTerm{l, in}, faultyDisk{in})
	ctx := context.Background()
	now := b.now.UnixMilli()
	one, two, dropped := impossible("one"), impossible("two"), impossible("dropped")
	good, accepted := metric("good"), metric("accepted")
	want := map[string][]series.Sample{}
	push := func(ls labels.Labels, id tenant.ID, smp series.Sample) {
		b.push(id, entry(ls, smp))
		if id == "a" {
			want[ls.String()] = append(want[ls.String()], smp)
		}
	}
	step := func() { // a fault may fail this step; the next one continues
		_ = b.ing.Flush()
		_ = b.ing.Upload(ctx)
		_ = b.ing.dropCompacted(ctx)
		b.safe(where(), l, want)
	}
	push(one, "a", f(now, 1))
	push(two, "a", f(now, 2))
	push(good, "a", f(now, 3))
	push(dropped, "b", f(now, 4))
	b.push("b", entry(good, f(now, 1)))
	step()
	push(one, "a", f(now+1, 5))
	push(one, "a", f(now-series.WindowMillis, 6))
	slices.SortFunc(want[one.String()], func(x, y series.Sample) int { return int(x.T - y.T) })
	step()
	// As if an earlier version had set aside a series that this version can store.
	chunks, err := series.Encode([]series.Sample{f(now, 9)})
	if err != nil {
		t.Fatal(err)
	}
	b.ing.aside.disk = osDisk{} // not a step under test
	if err := b.ing.aside.keep(b.ing.asideHeader("a", accepted, store.WindowOf(now), "as a test"), chunks); err != nil {
		t.Fatal(err)
	}
	b.ing.aside.disk = faultyDisk{in}
	want[accepted.String()] = []series.Sample{f(now, 9)}
	step()
	l.drop("b")
	b.set(b.now.Add(2 * asideReadEvery))
	b.reopen(faultyLongTerm{l, in}, faultyDisk{in})
	_ = b.ing.retryAside(ctx)
	step()
	calls := len(in.Calls())

	b.reopen(l, osDisk{}) // without faults
	b.safe(where()+", restarted", l, want)
	if err := b.ing.retryAside(ctx); err != nil {
		t.Fatalf("%s: retry of series set aside, without faults: %v", where(), err)
	}
	for range 2 {
		b.flush()
		upload(t, b)
		l.drop("b") // an operator repeats a drop that had no effect
		b.set(b.now.Add(2 * asideReadEvery))
		upload(t, b)
	}
	b.safe(where()+", done again", l, want)
	if n := len(l.openIntents()); n != 0 {
		t.Fatalf("%s: %d intents are left", where(), n)
	}
	files := 0
	for _, a := range b.ing.Aside() {
		if got := l.records()[asideKey{a.Window, a.Tenant}]; got != a || a.Tenant != "a" {
			t.Fatalf("%s: the record is %+v, the files are %+v", where(), got, a)
		}
		files += int(a.Series)
	}
	if files != 3 || len(l.records()) != 2 {
		t.Fatalf("%s: %d files in %d records are left, want 3 in 2", where(), files, len(l.records()))
	}
	if n := segments(t, b.dir); n != 1 {
		t.Fatalf("%s: the log has %d segments, want 1", where(), n)
	}
	if err := b.ing.Close(); err != nil {
		t.Fatal(err)
	}
	return calls
}

// reopen abandons the ingester as a killed process would, and opens its directory
// again with the given LongTerm and asideDisk, without goroutines.
func (b *bench) reopen(l LongTerm, disk asideDisk) {
	b.t.Helper()
	b.halt()
	_ = b.ing.packs.close()
	o := b.options()
	o.LongTerm, o.asideDisk = l, disk
	// Goroutines would make calls before the test could stop them.
	o.idle = true
	ing, err := Open(context.Background(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.ing = ing
}

// safe checks that all samples of tenant a can be read, and that every uploaded
// window with files set aside has an intent or a record.
func (b *bench) safe(where string, l *longTerm, want map[string][]series.Sample) {
	b.t.Helper()
	same(b.t, where, b.read("a"), want)
	uploaded := map[store.Window]bool{}
	for _, u := range l.uploaded() {
		for _, w := range u.Windows {
			uploaded[w] = true
		}
	}
	intents := l.openIntents()
	for _, f := range b.ing.aside.all() {
		_, intent := intents[f.window]
		_, record := l.records()[asideKey{f.window, f.tenant}]
		if uploaded[f.window] && !intent && !record {
			b.t.Fatalf("%s: window %v was uploaded, but series set aside of tenant %s have no intent and no record", where, f.window, f.tenant)
		}
	}
}

// drop marks the records of a tenant as dropped by an operator.
func (l *longTerm) drop(id tenant.ID) {
	for k, a := range l.records() {
		if k.tenant == id {
			a.Dropped = 1
			l.change(func() { l.asides[k] = a })
		}
	}
}

// during is a LongTerm that runs do once, after SetAside.
type during struct {
	LongTerm
	once sync.Once
	do   func()
}

func (d *during) SetAside(ctx context.Context, list []store.AsideOf) error {
	err := d.LongTerm.SetAside(ctx, list)
	d.once.Do(d.do)
	return err
}

// TestAsideWhileUploading checks that if a seal during an upload sets a series
// aside, the intent of the window stays until the series is recorded.
func TestAsideWhileUploading(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	d := &during{LongTerm: l, do: func() {
		b.push("b", entry(impossible("other"), f(now, 2)))
		b.push("a", entry(metric("good"), f(now, 2)))
		b.flush()
	}}
	b.reopen(d, osDisk{})
	b.push("a", entry(impossible("bad"), f(now, 1)))
	b.flush()
	upload(t, b)
	if len(l.uploaded()) != 1 || len(l.records()) != 1 {
		t.Fatalf("%d uploads, records %v: the test does not cover the case", len(l.uploaded()), l.records())
	}
	b.safe("after the upload", l, map[string][]series.Sample{impossible("bad").String(): {f(now, 1)}, metric("good").String(): {f(now, 2)}})
	upload(t, b)
	if len(l.records()) != 2 || len(l.openIntents()) != 0 {
		t.Errorf("records %v, intents %v; want two records and no intents", l.records(), l.openIntents())
	}
}

// names is an asideDisk that records in which directories file names may not be durable.
type names struct {
	osDisk
	unsynced map[string]bool // these directories
}

func (n names) Write(path string, data []byte) error {
	n.unsynced[filepath.Dir(path)] = true
	return n.osDisk.Write(path, data)
}

func (n names) Sync(dirs []string) error {
	for _, d := range dirs {
		delete(n.unsynced, d)
	}
	return n.osDisk.Sync(dirs)
}

// TestAsideNamesAreDurable checks that when a seal returns, and therefore before the
// log is cut, the names of all files and of their parent directories are durable.
func TestAsideNamesAreDurable(t *testing.T) {
	b := newBench(t)
	n := names{unsynced: map[string]bool{b.dir: true, filepath.Join(b.dir, "aside"): true}}
	b.reopen(nil, n)
	for _, id := range []tenant.ID{"a", "b"} {
		b.push(id, entry(impossible("bad"), f(b.now.UnixMilli(), 1)))
	}
	b.flush()
	if len(n.unsynced) != 0 || len(asideFiles(t, b.dir)) != 2 {
		t.Errorf("names in %v are not durable, want none; %d files, want 2", n.unsynced, len(asideFiles(t, b.dir)))
	}
}
