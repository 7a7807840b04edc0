package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// stepRows is a row store that writes the rows of a batch one by one and calls a function
// after each.
type stepRows struct {
	rows.Store
	wrote func()
}

func (s *stepRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	for i := range ms {
		if err := s.Mutate(ctx, ms[i]); err != nil {
			return []error{err}
		}
		s.wrote()
	}
	return nil
}

// racingRows is a row store that serves reads of the index from an older copy of the rows
// if they start before a read of a catalog has returned: the worst order of two concurrent
// reads. A read of a catalog returns only after such a read has started.
type racingRows struct {
	rows.Store
	before   rows.Store
	parallel bool // the question reads both concurrently
	began    chan struct{}
	once     sync.Once
	answered atomic.Bool
}

// race starts another race.
func (r *racingRows) race(before rows.Store, parallel bool) {
	r.before, r.parallel, r.began, r.once = before, parallel, make(chan struct{}), sync.Once{}
	r.answered.Store(false)
}

func (r *racingRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	var key schema.Key
	if len(ranges) > 0 {
		key, _ = schema.ParseKey(ranges[0].Start)
	}
	if key.Row == schema.RowCatalog {
		if r.parallel && !r.answered.Load() {
			select {
			case <-r.began:
			case <-time.After(30 * time.Second):
				return errors.New("the rows of the index are not read concurrently with the catalogs")
			}
		}
		err := r.Store.ReadRows(ctx, ranges, f, visit)
		r.answered.Store(true)
		return err
	}
	if r.answered.Load() {
		return r.Store.ReadRows(ctx, ranges, f, visit)
	}
	r.once.Do(func() { close(r.began) })
	return r.before.ReadRows(ctx, ranges, f, visit)
}

// TestReadDuringPublication runs all questions while a day is published, for the first and
// the second time. It combines the catalog from after the publication with the index rows from
// before the publication and from after each of its writes. No result may be incomplete. With
// the catalog from before the publication, reads return the previous generation.
func TestReadDuringPublication(t *testing.T) {
	live, objects := memRows(t), memory.New()
	last := map[string]string{}
	for generation := 1; generation <= 2; generation++ {
		copies := []rows.Store{copyRows(t, live)}
		writer := &stepRows{Store: live, wrote: func() { copies = append(copies, copyRows(t, live)) }}
		publish(t, openStore(t, writer, objects, testNow), generation)
		plain := openStore(t, live, objects, testNow)
		catalog, err := plain.Catalog(t.Context(), "a", testDay)
		if err != nil || len(catalog.Manifest.Packs) < 3 {
			t.Fatalf("%+v, %v; want a day of several packs", catalog.Manifest, err)
		}
		racing, old := &racingRows{Store: live}, &struct{ rows.Store }{}
		s, sOld := openStore(t, racing, objects, testNow), openStore(t, old, objects, testNow)
		t.Logf("%d packs, %d copies of the rows", len(catalog.Manifest.Packs), len(copies))
		for _, q := range questions() {
			want, err := q.ask(t, plain)
			if err != nil {
				t.Fatal(err)
			}
			for i, before := range copies {
				racing.race(before, q.parallel)
				if got, err := q.ask(t, s); err != nil || got != want {
					t.Errorf("%s, generation %d, rows as after write %d of %d: %s, %v; want %s", q.name, generation, i, len(copies)-1, got, err, want)
				}
				if generation == 1 {
					continue
				}
				old.Store = before
				if got, err := q.ask(t, sOld); err != nil || got != last[q.name] {
					t.Errorf("%s before the publication, write %d: %s, %v; want %s", q.name, i, got, err, last[q.name])
				}
			}
			last[q.name] = want
		}
	}
	if got := last["without a name"]; got != "2515 series, 5030 samples" {
		t.Errorf("the query without a name returned %s, want 2515 series, 5030 samples", got)
	}
}

// TestRereads checks that the row of a metric that is not in the day is read twice only if
// the manifest is young and a pack may have the metric.
func TestRereads(t *testing.T) {
	live, objects := memRows(t), memory.New()
	now := testNow()
	clock, reg := func() time.Time { return now }, prometheus.NewRegistry()
	ix, err := index.New(index.Options{Rows: live, Now: clock, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	o := openStore(t, live, objects, clock).Options()
	o.Index, o.Registerer = ix, nil
	s, err := store.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	rereads := func() float64 {
		all, err := reg.Gather()
		if err != nil || len(all) != 1 || all[0].GetName() != "pallium_store_index_rereads_total" {
			t.Fatalf("gathered metrics %v, error %v; want only pallium_store_index_rereads_total", all, err)
		}
		return all[0].GetMetric()[0].GetCounter().GetValue()
	}
	publish(t, s, 1)
	for _, c := range []struct {
		metric string
		age    time.Duration
		want   float64
	}{
		{"a2", 0, 0}, // exists
		{"a2x", 0, 1},
		{"a2x", store.PublishMargin, 1},
		{"a2x", store.PublishMargin + time.Millisecond, 0},
		{"zzz", 0, 0},
		{"0", 0, 0},
	} {
		now = testNow().Add(c.age)
		before := rereads()
		sel, err := s.Select(t.Context(), series.Request{Tenant: "a", MaxTime: now.UnixMilli(), Matchers: matchers("__name__=" + c.metric)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		sel.Release()
		if got := rereads() - before; got != c.want {
			t.Errorf("metric %s, manifest %s old: %g rows were read again, want %g", c.metric, c.age, got, c.want)
		}
	}
}

// TestMissingRows checks that a row that is missing although the manifest or the names list it
// is an error that names the row, in all reads and for manifests of any age.
func TestMissingRows(t *testing.T) {
	live, objects := memRows(t), memory.New()
	s := openStore(t, live, objects, testNow)
	publish(t, s, 1)
	c, err := s.Catalog(t.Context(), "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	version := c.Manifest.Version
	names, big := schema.NamesKey("a", testDay), schema.PagesKey("a", "big", testDay)
	part, to := c.Manifest.PartsOf("big")
	if to-part < 2 {
		t.Fatalf("the large metric is in %d packs, want several", to-part)
	}
	row, column := rows.DeleteRow(), func(q string) rows.Mutation { return rows.DeleteColumn(rows.Data, q) }
	byNames := []string{"without a name", "part of a name", "label names", "label names without a name", "metric names", "label values", "metadata"}
	ofBig := []string{"metric of many pages", "list of names", "without a name"}
	for _, d := range []struct {
		what, key string
		m         rows.Mutation
		questions []string
	}{
		{"all names", names, row, byNames},
		{"names of a pack", names, column(schema.NamesQualifier(version, 1)), byNames},
		{"a large metric", big, row, append(ofBig, "few pages of many")},
		{"summaries of a pack", big, column(schema.SummariesQualifier(version, to-1)), ofBig},
		{"the first page", big, column(schema.PageQualifier(version, part, 0)), ofBig},
		{"the last page", big, column(schema.PageQualifier(version, to-1, 0)), ofBig},
		{"a pack's first metric", schema.PagesKey("a", "a1", testDay), row, []string{"first metric", "without a name"}},
		{"a metric inside a pack", schema.PagesKey("a", "m2", testDay), row, []string{"without a name", "part of a name"}},
		{"label values", schema.ValuesKey("a", "pod", testDay), row, []string{"label values"}},
		{"label values of a pack", schema.ValuesKey("a", "pod", testDay), column(schema.ValuesQualifier(version, 1, 0)), []string{"label values"}},
	} {
		damaged := copyRows(t, live)
		if err := damaged.Mutate(t.Context(), rows.RowMutation{Key: d.key, Mutations: []rows.Mutation{d.m}}); err != nil {
			t.Fatal(err)
		}
		for _, age := range []time.Duration{0, 100 * time.Hour} {
			for _, q := range questions() {
				for _, name := range d.questions {
					if q.name != name {
						continue
					}
					s := openStore(t, damaged, objects, func() time.Time { return testNow().Add(age) })
					if got, err := q.ask(t, s); !errors.Is(err, index.ErrInconsistent) || !strings.Contains(err.Error(), fmt.Sprintf("%q", d.key)) {
						t.Errorf("without %s, %s: %s, %v; want an error that names the row", d.what, q.name, got, err)
					}
				}
			}
		}
	}
}
