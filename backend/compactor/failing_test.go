package compactor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// oneTenantRows is a row store that fails calls of one kind for certain keys.
type oneTenantRows struct {
	rows.Store
	f *oneTenantFault
}

// oneTenantFault selects the calls that fail while it is on.
type oneTenantFault struct {
	on        bool
	call, key string
	after     bool // only after a conditional write of the key
	written   bool
	puts      *atomic.Int32
	failPut   string // prefix of the objects whose Put fails
}

func (f *oneTenantFault) rejects(call string, hit func(key string) bool) bool {
	return f.on && f.call == call && hit(f.key) && (!f.after || f.written)
}

func (o oneTenantRows) ReadRows(ctx context.Context, list []rows.Range, fl rows.Filter, visit func(rows.Row) bool) error {
	hit := func(key string) bool {
		return slices.ContainsFunc(list, func(r rows.Range) bool { return r.Start != "" && r.Start <= key && key < r.End })
	}
	if o.f.rejects("ReadRows", hit) {
		return faults.ErrInjected
	}
	return o.Store.ReadRows(ctx, list, fl, visit)
}

func (o oneTenantRows) Mutate(ctx context.Context, m rows.RowMutation) error {
	if o.f.rejects("Mutate", func(key string) bool { return m.Key == key }) {
		return faults.ErrInjected
	}
	return o.Store.Mutate(ctx, m)
}

func (o oneTenantRows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if o.f.rejects("CheckAndMutate", func(k string) bool { return k == key }) {
		return false, faults.ErrInjected
	}
	if key == o.f.key {
		o.f.written = true
	}
	return o.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

func (o oneTenantRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	if o.f.rejects("MutateRows", func(key string) bool {
		return slices.ContainsFunc(ms, func(m rows.RowMutation) bool { return m.Key == key })
	}) {
		errs := make([]error, len(ms))
		for i := range errs {
			errs[i] = faults.ErrInjected
		}
		return errs
	}
	return o.Store.MutateRows(ctx, ms)
}

// puttingObjects is an object store that counts Puts, and fails some of them.
type puttingObjects struct {
	objects.Store
	f *oneTenantFault
}

func (c puttingObjects) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	c.f.puts.Add(1)
	if c.f.on && c.f.failPut != "" && strings.HasPrefix(name, c.f.failPut) {
		return objects.Object{}, faults.ErrInjected
	}
	return c.Store.Put(ctx, name, path, crc)
}

// failingWorld has four L0 packs: one of the tenants bad and good, one of good
// and fine, one of fine and gone, which was deleted, and one of bad only.
type failingWorld struct {
	*world
	f     *oneTenantFault
	packs map[string]store.Upload
	log   bytes.Buffer
}

func newFailingWorld(t *testing.T) *failingWorld {
	t.Helper()
	w := &failingWorld{f: &oneTenantFault{puts: &atomic.Int32{}}, packs: map[string]store.Upload{}}
	w.world = newWorld(t, wrap{rows: func(r rows.Store) rows.Store { return oneTenantRows{r, w.f} },
		objects: func(o objects.Store) objects.Store { return puttingObjects{o, w.f} }})
	w.comp.opts.Logger = slog.New(slog.NewTextHandler(&w.log, nil))
	rng := rng()
	for _, p := range []struct {
		name    string
		tenants []tenant.ID
	}{{"bad+good", []tenant.ID{"bad", "good"}}, {"good+fine", []tenant.ID{"good", "fine"}}, {"fine+gone", []tenant.ID{"fine", "gone"}}, {"bad", []tenant.ID{"bad"}}} {
		d := map[tenant.ID]data{}
		for _, id := range p.tenants {
			d[id] = storetest.Window(rng, testDay, len(w.packs)+1, 2, 3)
		}
		w.Expect(d)
		w.packs[p.name] = w.Seal("i1", d, 0)
		if err := w.Store.Upload(ctx, w.packs[p.name]); err != nil {
			t.Fatal(err)
		}
	}
	w.Deleted["gone"] = true
	w.f.puts.Store(0)
	return w
}

// deletes adds a deletion of series of the tenant bad that matches no series.
func (w *failingWorld) deletes() {
	w.T.Helper()
	d, err := w.Lifecycle.ReserveDeletion(ctx, "bad", math.MinInt64, math.MaxInt64, [][]*labels.Matcher{{metric("never")}})
	if err == nil {
		err = w.Lifecycle.ActivateDeletion(ctx, "bad", d)
	}
	if err != nil {
		w.T.Fatal(err)
	}
}

// consumed returns the packs that ingesters may drop.
func (w *failingWorld) consumed() string {
	w.T.Helper()
	var out []string
	for name, u := range w.packs {
		done, err := w.Store.Consumed(ctx, u.Info)
		if err != nil {
			w.T.Fatal(err)
		}
		if done {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// gauges returns a metric's values by label, or by "" without one.
func gauges(t testing.TB, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			label := ""
			if len(m.GetLabel()) > 0 {
				label = m.GetLabel()[0].GetValue()
			}
			out[label] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

func (w *failingWorld) scratch() []string {
	w.T.Helper()
	list, err := os.ReadDir(filepath.Join(w.Dir, "scratch"))
	if err != nil {
		w.T.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// flipSection damages a tenant's section of an uploaded pack and returns a function that repairs
// it.
func (w *failingWorld) flipSection(name string, id tenant.ID) (repair func()) {
	w.T.Helper()
	u := w.packs[name]
	m := w.Objects.(puttingObjects).Store.(*memory.Store)
	good := m.Bytes(u.Object)
	broken := bytes.Clone(good)
	for _, s := range u.Info.Sections {
		if s.Tenant == id {
			for i := s.Offset; i < s.Offset+s.Length; i++ {
				broken[i] ^= 0x55
			}
		}
	}
	m.Replace(u.Object, broken)
	return func() { m.Replace(u.Object, good) }
}

// TestOneTenantFails checks that a failure of one tenant's day does not stop the other tenants,
// and that packs without a section of that tenant are consumed. The failing day is retried with
// increasing delays, leaves no files on the local disk, and is in log, metric and status. After a
// repair it is compacted.
func TestOneTenantFails(t *testing.T) {
	catalog := schema.CatalogKey("bad", testDay)
	reject := func(f oneTenantFault) func(*failingWorld) func() {
		return func(w *failingWorld) func() {
			w.f.call, w.f.key, w.f.after, w.f.failPut, w.f.on = f.call, f.key, f.after, f.failPut, true
			return func() { w.f.on = false }
		}
	}
	const others = "fine+gone good+fine"
	for _, c := range []struct {
		name     string
		damage   func(*failingWorld) (repair func())
		consumed string
	}{
		{"its index rows are rejected", reject(oneTenantFault{call: "MutateRows", key: schema.NamesKey("bad", testDay)}), others},
		{"its packs cannot be stored", reject(oneTenantFault{failPut: "l1/bad/"}), others},
		{"its publication is rejected", reject(oneTenantFault{call: "CheckAndMutate", key: catalog}), others},
		{"its catalog cannot be read", reject(oneTenantFault{call: "ReadRows", key: catalog}), others},
		{"its catalog cannot be read once it is published", reject(oneTenantFault{call: "ReadRows", key: catalog, after: true}), others},
		{"its retention cannot be read", func(w *failingWorld) func() {
			keep, failing := w.comp.opts.Retention, true
			w.comp.opts.Retention = func(ctx context.Context, id tenant.ID) (time.Duration, error) {
				if id == "bad" && failing {
					return 0, faults.ErrInjected
				}
				return keep(ctx, id)
			}
			return func() { failing = false }
		}, others},
		{"it is deleted, and its L0 cells cannot be removed", func(w *failingWorld) func() {
			w.Deleted["bad"] = true
			return reject(oneTenantFault{call: "Mutate", key: catalog})(w)
		}, others},
		{"its request for a rewrite cannot be removed", func(w *failingWorld) func() {
			w.compact(Due)
			w.deletes()
			return reject(oneTenantFault{call: "MutateRows", key: schema.WorkKey(testDay)})(w)
		}, "bad bad+good fine+gone good+fine"},
		{"its section is damaged", func(w *failingWorld) func() { return w.flipSection("bad+good", "bad") }, others},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newFailingWorld(t)
			repair := c.damage(w)
			w.failsFor(48*time.Hour, c.consumed)
			repair()
			w.recovers()
		})
	}
}

// failsFor runs the compactor every five minutes, and checks which tenant fails.
func (w *failingWorld) failsFor(long time.Duration, consumed string) {
	w.T.Helper()
	failures, named := 0, map[string]float64{"bad": 1}
	for look := range int(long / w.comp.opts.Interval) {
		if _, err := w.comp.Compact(ctx, Due); err != nil {
			failures++
		}
		if got := w.consumed(); look == 0 && got != consumed {
			w.T.Errorf("consumed packs after the first attempt: %q, want %q", got, consumed)
		}
		if got := gauges(w.T, w.reg, "pallium_compactor_failing_days"); fmt.Sprint(got) != fmt.Sprint(named) {
			w.T.Fatalf("failing days %v, want %v", got, named)
		}
		w.Now = w.Now.Add(w.comp.opts.Interval)
	}
	if got := w.consumed(); got != consumed {
		w.T.Errorf("consumed packs after all attempts: %q, want %q", got, consumed)
	}
	for _, id := range []tenant.ID{"good", "fine"} {
		if w.Manifest(id, testDay) == nil {
			w.T.Errorf("tenant %s is not published", id)
		}
	}
	if consumed != "bad bad+good fine+gone good+fine" && (failures < 5 || failures > 20) {
		w.T.Errorf("%d attempts failed, want 5 to 20", failures)
	}
	if w.f.puts.Load() > 22 {
		w.T.Errorf("%d objects were stored, want at most 22", w.f.puts.Load())
	}
	if left := w.scratch(); len(left) > 0 {
		w.T.Errorf("scratch has %q", left)
	}
	if got := w.log.String(); !strings.Contains(got, "tenant=bad day=20000") || strings.Contains(got, "tenant=fine day=20000 attempts") {
		w.T.Errorf("the log must name the failing tenant only:\n%s", got)
	}
	st := w.comp.Status()
	if len(st.Failing) != 1 || st.Failing[0].Tenant != "bad" || st.Failing[0].Day != testDay || st.Failing[0].Err == "" || st.Failing[0].Attempts < 5 {
		w.T.Errorf("status %+v", st.Failing)
	}
}

// recovers checks that after a repair an operator's compaction succeeds.
func (w *failingWorld) recovers() {
	w.T.Helper()
	w.compact(All)
	if got := w.consumed(); got != "bad bad+good fine+gone good+fine" {
		w.T.Errorf("consumed packs in the end: %q", got)
	}
	if got := gauges(w.T, w.reg, "pallium_compactor_failing_days"); len(got) > 0 {
		w.T.Errorf("failing days %v", got)
	}
	if st := w.comp.Status(); len(st.Failing) > 0 || st.LastErr != "" {
		w.T.Errorf("status %+v", st)
	}
	if err := w.comp.Sweep(ctx); err != nil {
		w.T.Error(err)
	}
	w.Check("repaired")
}

// TestUnreadablePack checks that the receipts of a damaged or missing pack and of the other packs of
// its tenants are kept, and that the other tenants are published and their packs consumed.
func TestUnreadablePack(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(m *memory.Store, object string)
	}{
		{"missing", func(m *memory.Store, object string) { _ = m.Delete(ctx, object) }},
		{"empty", func(m *memory.Store, object string) { m.Replace(object, nil) }},
		{"damaged footer", func(m *memory.Store, object string) {
			b := bytes.Clone(m.Bytes(object))
			for i := len(b) - 40; i < len(b); i++ {
				b[i] ^= 0x55
			}
			m.Replace(object, b)
		}},
	} {
		for _, name := range []string{"bad", "bad+good"} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newFailingWorld(t)
				m := w.Objects.(puttingObjects).Store.(*memory.Store)
				object := w.packs[name].Object
				good := m.Bytes(object)
				c.damage(m, object)
				named, consumed := map[string]float64{"bad": 1}, "fine+gone good+fine"
				if name == "bad+good" {
					named, consumed = map[string]float64{"bad": 1, "good": 1}, "fine+gone"
				}
				for range 48 * 12 {
					_, _ = w.comp.Compact(ctx, Due)
					w.Now = w.Now.Add(w.comp.opts.Interval)
				}
				if got := gauges(t, w.reg, "pallium_compactor_failing_days"); fmt.Sprint(got) != fmt.Sprint(named) {
					t.Errorf("failing days %v, want %v", got, named)
				}
				if got := gauges(t, w.reg, "pallium_compactor_unreadable_packs"); got[""] != 1 {
					t.Errorf("unreadable packs %v", got)
				}
				if got := w.consumed(); got != consumed || w.Manifest("fine", testDay) == nil {
					t.Errorf("consumed packs: %q, want %q", got, consumed)
				}
				if n := strings.Count(w.log.String(), "failed to open L0 pack"); n < 5 || n > 20 || !strings.Contains(w.log.String(), object) {
					t.Errorf("the log has %d failed attempts, want 5 to 20 that name %s:\n%s", n, object, w.log.String())
				}
				m.Replace(object, good)
				w.recovers()
				if got := gauges(t, w.reg, "pallium_compactor_unreadable_packs"); got[""] != 0 {
					t.Errorf("unreadable packs %v in the end", got)
				}
			})
		}
	}
}

// TestBackOff checks that a failed day is retried at once when its inputs change and by an
// operator's compaction, and otherwise with increasing delays, and that the failures are deleted
// when another compactor has the lease.
func TestBackOff(t *testing.T) {
	w := newFailingWorld(t)
	w.f.call, w.f.key, w.f.on = "MutateRows", schema.NamesKey("bad", testDay), true
	attempt := func(which Which) bool {
		_, err := w.comp.Compact(ctx, which)
		if err != nil && !errors.Is(err, faults.ErrInjected) {
			t.Fatal(err)
		}
		return err != nil
	}
	for i, tried := range []bool{true, true, false, true, false, false, false, true, false} { // after 0, 5, 15 and 35 minutes
		if attempt(Due) != tried {
			t.Fatalf("pass %d: tried %v, want %v", i, !tried, tried)
		}
		w.Now = w.Now.Add(w.comp.opts.Interval)
	}
	w.Push(map[tenant.ID]data{"bad": {"__name__=late": {{T: testDay * series.DayMillis, V: 5}}}}, "i2")
	if !attempt(Due) {
		t.Error("the day was not retried with another L0 pack")
	}
	if attempt(Due) {
		t.Error("the same inputs were retried at once")
	}
	w.deletes()
	if !attempt(Due) {
		t.Error("the day was not retried with another deletion")
	}
	if !attempt(All) {
		t.Error("an operator's compaction did not retry the day")
	}
	w.Now = w.Now.Add(time.Hour)
	if held, err := w.Store.Options().Index.Leases.Take(ctx, "compactor", "c2", time.Hour); err != nil || !held {
		t.Fatalf("the second compactor acquired the lease: %t, error %v", held, err)
	}
	if attempt(Due) || len(gauges(t, w.reg, "pallium_compactor_failing_days")) > 0 || len(w.comp.Status().Failing) > 0 {
		t.Error("a compactor without the lease still reports a failing tenant")
	}
}

// TestFailingBounds checks the limits of metric, status and memory for many failing tenants.
func TestFailingBounds(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := newFailures(5*time.Minute, newMetrics(reg))
	now := time.Unix(1_700_000_000, 0)
	for i := range maxFailing + 10 {
		f.failed(failingKey{day: testDay, tenant: tenant.ID(fmt.Sprintf("t%06d", i))}, fingerprint{}, "", errors.New(strings.Repeat("x", 5000)), now)
	}
	f.publish()
	got := gauges(t, reg, "pallium_compactor_failing_days")
	if len(f.byKey) != maxFailing || len(got) != maxNamed+1 || got[otherTenants] != maxFailing-maxNamed || len(f.list()) != maxNamed {
		t.Errorf("%d failures recorded, %d label values, %d listed", len(f.byKey), len(got), len(f.list()))
	}
	if e := f.byKey[failingKey{day: testDay, tenant: "t000001"}]; len(e.err) > maxErrorText+3 {
		t.Errorf("an error text of %d bytes is recorded", len(e.err))
	}
	k := failingKey{day: testDay, tenant: "t000001"}
	for range 40 {
		f.failed(k, fingerprint{}, "", faults.ErrInjected, now)
	}
	if next := f.byKey[k].next; next.Sub(now) != maxBackOff {
		t.Errorf("next attempt after %v, want %v", next.Sub(now), maxBackOff)
	}
	f.pass++
	f.prune(map[int64]bool{testDay: true})
	if len(f.byKey) != maxFailing {
		t.Error("prune deleted a failure of a waiting day")
	}
	f.prune(nil)
	f.publish()
	if len(f.byKey) != 0 || len(gauges(t, reg, "pallium_compactor_failing_days")) != 0 {
		t.Error("prune did not delete failures of an earlier pass")
	}
}
