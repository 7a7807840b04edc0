package distributor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// zones is a Membership with a fixed ring of ingesters in three zones.
type zones struct{ ring *ring.Ring }

func (z zones) Ring(context.Context) (*ring.Ring, error) { return z.ring, nil }

func newZones(n int) zones {
	var all []ring.Instance
	for i := range 3 * n {
		zone := string(rune('a' + i%3))
		var same []ring.Instance
		for _, in := range all {
			if in.Zone == zone {
				same = append(same, in)
			}
		}
		all = append(all, ring.Instance{ID: fmt.Sprint(i), Zone: zone, State: ring.Active, Tokens: ring.PlaceTokens(zone, same)})
	}
	return zones{ring.New(all)}
}

// replica applies pushes, except series whose label rejected_by equals reject. It fails if
// err is set, and waits for the end of the context if hangs is set.
type replica struct {
	reject string
	err    error
	hangs  bool

	mu      sync.Mutex
	applied map[string]int
}

func (r *replica) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	if r.hangs {
		<-ctx.Done()
		return series.Outcome{}, ctx.Err()
	}
	var out series.Outcome
	if r.err != nil {
		return out, r.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, e := range b.Entries {
		out.Exemplars += len(e.Exemplars)
		if r.reject != "" && e.Labels.Get("rejected_by") == r.reject {
			out.RejectEntry(i, "too_many_sample_type_changes", "changes", len(e.Samples), nil)
			continue
		}
		if r.applied == nil {
			r.applied = map[string]int{}
		}
		r.applied[e.Labels.String()] += len(e.Samples)
	}
	return out, nil
}

// TestQuorum checks the fate of a series by the responses of its three replicas.
// TestEstablished covers rejections for lack of capacity.
func TestQuorum(t *testing.T) {
	down := errors.New("down")
	ok := func() *replica { return &replica{} }
	rejects := func() *replica { return &replica{reject: "x"} }
	fails := func() *replica { return &replica{err: down} }
	hangs := func() *replica { return &replica{hangs: true} }
	tests := []struct {
		name     string
		replicas []*replica
		accepted bool
		rejected bool // neither: an error
	}{
		{"all", []*replica{ok(), ok(), ok()}, true, false},
		{"one down", []*replica{ok(), fails(), ok()}, true, false},
		{"one hangs", []*replica{hangs(), ok(), ok()}, true, false},
		{"two down", []*replica{ok(), fails(), fails()}, false, false},
		{"all down", []*replica{fails(), fails(), fails()}, false, false},
		{"one rejects", []*replica{ok(), rejects(), ok()}, true, false},
		{"two reject", []*replica{rejects(), ok(), rejects()}, false, true},
		{"two reject, one hangs", []*replica{rejects(), hangs(), rejects()}, false, true},
		{"one rejects, one down", []*replica{rejects(), ok(), fails()}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ings := map[string]Ingester{}
			for i, r := range tt.replicas {
				ings[fmt.Sprint(i)] = r
			}
			d := unlimited(Options{Ring: newZones(1), Replication: 3, Replica: lookup(ings), PushTimeout: 200e6})
			defer d.Close()
			e := entryOf(rawLabels("__name__", "up", "rejected_by", "x"), at(nowMillis), at(nowMillis+1))
			other := entryOf(rawLabels("__name__", "other"), at(nowMillis))
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{other, e}})
			switch {
			case !tt.accepted && !tt.rejected:
				if !errors.Is(err, ErrUnavailable) || out.Samples != 0 {
					t.Errorf("Push = %+v, %v", out, err)
				}
			case tt.accepted:
				if err != nil || out.Samples != 3 || len(out.Rejections) != 0 {
					t.Errorf("Push = %+v, %v", out, err)
				}
			default: // the other series is accepted
				if err != nil || out.Samples != 1 || len(out.Rejections) != 1 || out.Rejections[0].Samples != 2 || !strings.Contains(out.Rejections[0].Offenders[0], "rejected_by") {
					t.Errorf("Push = %+v, %v", out, err)
				}
			}
		})
	}
}

// TestReplicas checks that every series is on three ingesters in three zones, and with one
// ingester down on at least two.
func TestReplicas(t *testing.T) {
	for _, broken := range []string{"", "4"} {
		ings := map[string]Ingester{}
		z := newZones(3)
		for i := range 9 {
			r := &replica{}
			if fmt.Sprint(i) == broken {
				r.err = errors.New("down")
			}
			ings[fmt.Sprint(i)] = r
		}
		d := unlimited(Options{Ring: z, Replication: 3, Replica: lookup(ings)})
		out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(1000)})
		if err != nil || out.Samples != 1000 {
			t.Fatalf("Push = %+v, %v", out, err)
		}
		_ = d.Close() // wait for the third replicas
		copies := map[string]map[string]bool{}
		for i, in := range z.ring.Instances() {
			for s, n := range ings[in.ID].(*replica).applied {
				if copies[s] == nil {
					copies[s] = map[string]bool{}
				}
				if copies[s][in.Zone] || n != 1 {
					t.Fatalf("series %s is in zone %s twice", s, in.Zone)
				}
				copies[s][z.ring.Instances()[i].Zone] = true
			}
		}
		three := 0
		for _, c := range copies {
			if len(c) < 2 {
				t.Fatalf("%d copies, want at least 2", len(c))
			}
			if len(c) == 3 {
				three++
			}
		}
		if len(copies) != 1000 || (broken == "" && three != 1000) || three < 600 {
			t.Errorf("%d series, want 1000; %d of them with three copies, want all, or at least 600 if an ingester is down", len(copies), three)
		}
	}
}

// TestShard checks that a tenant's series are on as many ingesters as ShardSize returns.
func TestShard(t *testing.T) {
	ings := map[string]Ingester{}
	for i := range 30 {
		ings[fmt.Sprint(i)] = &replica{}
	}
	d := unlimited(Options{Ring: newZones(10), Replication: 3, Replica: lookup(ings), ShardSize: func(*limits.Limits) int { return 6 }})
	_, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(2000), Metadata: []series.MetricMetadata{{Metric: "up"}}})
	if err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	used := 0
	for _, ing := range ings {
		if len(ing.(*replica).applied) > 0 {
			used++
		}
	}
	if used != 6 {
		t.Errorf("%d ingesters have series, want 6", used)
	}
}

// TestInflight checks that the memory of pushes to hanging ingesters is bounded.
func TestInflight(t *testing.T) {
	hanging := &replica{hangs: true}
	const limit = 1_000_000
	account := memory.NewAccount(limit, nil)
	d := unlimited(Options{Ring: newZones(1), Replication: 3, Replica: lookup(map[string]Ingester{"0": &replica{}, "1": &replica{}, "2": hanging}),
		Memory: account, PushTimeout: 500e6})
	defer d.Close()
	full := false
	for range 1000 {
		_, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(100)})
		if full = errors.Is(err, memory.ErrFull); full {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !full {
		t.Error("no push was rejected")
	}
	if used := d.inflight.Load(); used > limit/2 {
		t.Errorf("%d bytes in flight, want at most half of the limit", used)
	}
	if err := d.Close(); err != nil || account.Used() != 0 {
		t.Errorf("Close = %v, %d bytes still held", err, account.Used())
	}
}

// TestEncoding checks that histograms, exemplars, metadata and unusual values reach
// ingesters unchanged.
func TestEncoding(t *testing.T) {
	seen := make(chan string, 3)
	ing := pushFunc(func(b *series.Batch) { seen <- describe(b) })
	d := unlimited(Options{Ring: newZones(1), Replication: 3, Replica: lookup(map[string]Ingester{"0": ing, "1": ing, "2": ing})})
	e := entryOf(rawLabels("__name__", "up", "long", strings.Repeat("ä", 500)), at(nowMillis), at(5), at(1<<43))
	e.Samples[1].V = 1e-300
	e.Exemplars = []exemplar.Exemplar{{Labels: rawLabels("trace", "1"), Value: -1, Ts: nowMillis, HasTs: true}}
	h := entryOf(rawLabels("__name__", "h"), series.Sample{T: nowMillis, H: tsdbutil.GenerateTestHistogram(3)}, series.Sample{T: nowMillis + 1, FH: tsdbutil.GenerateTestFloatHistogram(5)})
	b := &series.Batch{Tenant: "t", Entries: []series.Entry{e, h}, Metadata: []series.MetricMetadata{{Metric: "up"}}}
	b.Metadata[0].Type, b.Metadata[0].Help, b.Metadata[0].Unit = "gauge", "Help.", "seconds"
	want := describe(b)
	out, err := d.Push(context.Background(), b)
	if err != nil || out.Samples != 3 || out.Histograms != 2 || out.Exemplars != 1 {
		t.Errorf("Push = %+v, %v", out, err)
	}
	_ = d.Close()
	for range 3 {
		if got := <-seen; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

type pushFunc func(*series.Batch)

func (f pushFunc) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	f(b)
	n := 0
	for _, e := range b.Entries {
		n += len(e.Exemplars)
	}
	return series.Outcome{Exemplars: n}, nil
}

func describe(b *series.Batch) string {
	var s strings.Builder
	for _, e := range b.Entries {
		fmt.Fprintf(&s, "%s %x:", e.Labels, e.Hash)
		for _, x := range e.Samples {
			fmt.Fprintf(&s, " %d %v %v %v", x.T, x.V, x.H, x.FH)
		}
		fmt.Fprintf(&s, " %v\n", e.Exemplars)
	}
	fmt.Fprintf(&s, "%v", b.Metadata)
	return s.String()
}
