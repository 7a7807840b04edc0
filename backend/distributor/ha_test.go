package distributor

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// fakeStore is a Store that counts calls, and that can fail or hang.
type fakeStore struct {
	election.Store

	mu    sync.Mutex
	down  bool
	hangs bool
	calls int
}

func (s *fakeStore) set(down, hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.hangs = down, hangs
}

func (s *fakeStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *fakeStore) Claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	s.mu.Lock()
	s.calls++
	down, hangs := s.down, s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return election.Sighting{}, ctx.Err()
	}
	if down {
		return election.Sighting{}, errors.New("connection refused")
	}
	return s.Store.Claim(ctx, c, seen, r)
}

func haLimits() limits.Limits {
	l := limits.Default()
	l.AcceptHASamples = true
	return l
}

// haGroup is a group of distributors that share a store and a clock.
type haGroup struct {
	clock *kit.Clock
	store fakeStore
	has   []*HA
}

func newHAGroup(n int) *haGroup {
	g := &haGroup{clock: kit.NewClock(time.Unix(1_700_000_000, 0))}
	g.store.Store = election.NewMemory(g.clock.Now)
	for range n {
		// With a fake clock no test waits this long: the store responds or hangs.
		g.has = append(g.has, NewHA(HAOptions{Store: &g.store, Now: g.clock.Now, CallTimeout: time.Minute}))
	}
	return g
}

// send sends a sample of a replica and reports whether it is accepted.
func send(t testing.TB, h *HA, id tenant.ID, cluster, replica string) bool {
	t.Helper()
	ls := labels.FromStrings("__name__", "up", "cluster", cluster, "__replica__", replica)
	b := &series.Batch{Tenant: id, Entries: []series.Entry{{Labels: ls, Hash: ls.Hash(), Samples: make([]series.Sample, 1)}}}
	lim := haLimits()
	var out series.Outcome
	d := h.Filter(context.Background(), b, &lim, &out)
	if len(out.Rejections) > 0 || (d != Dropped{}) == (len(b.Entries) == 1) {
		t.Fatalf("dropped %v, accepted %d, rejected %s", d, len(b.Entries), out.String())
	}
	return d == Dropped{}
}

func TestHAFilter(t *testing.T) {
	entry := func(text ...string) series.Entry {
		ls := labels.FromStrings(text...)
		return series.Entry{Labels: ls, Hash: ls.Hash(), Samples: []series.Sample{{T: 1}, {T: 2, FH: &histogram.FloatHistogram{}}},
			Exemplars: make([]exemplar.Exemplar, 1)}
	}
	const n = "__name__"
	long := strings.Repeat("x", maxHALabel+1)
	other := func(l *limits.Limits) { l.HAClusterLabel, l.HAReplicaLabel = "group", "pod" }
	for name, c := range map[string]struct {
		limits   func(*limits.Limits)
		give     []series.Entry
		want     string
		dropped  Dropped
		rejected string
	}{
		"the elected replica": {give: []series.Entry{entry(n, "up", "cluster", "c", "__replica__", "a")}, want: `{__name__="up", cluster="c"}`},
		"another replica":     {give: []series.Entry{entry(n, "up", "cluster", "c", "__replica__", "b")}, dropped: Dropped{1, 1, 1}},
		"HA is off": {limits: func(l *limits.Limits) { l.AcceptHASamples = false },
			give: []series.Entry{entry(n, "up", "cluster", "c", "__replica__", "b")}, want: `{__name__="up", __replica__="b", cluster="c"}`},
		"without cluster": {give: []series.Entry{entry(n, "up", "__replica__", "b")}, want: `{__name__="up", __replica__="b"}`},
		"without replica": {give: []series.Entry{entry(n, "up", "cluster", "c")}, want: `{__name__="up", cluster="c"}`},
		"pairs differ": {give: []series.Entry{
			entry(n, "1", "cluster", "c", "__replica__", "a"), entry(n, "2", "cluster", "c", "__replica__", "b"), entry(n, "3"),
			entry(n, "4", "cluster", "new", "__replica__", "b"), entry(n, "5", "cluster", "c", "__replica__", "b"), entry(n, "6", "cluster", "c", "__replica__", "a"),
		}, want: `{__name__="1", cluster="c"} {__name__="3"} {__name__="4", cluster="new"} {__name__="6", cluster="c"}`, dropped: Dropped{2, 2, 2}},
		"other labels": {limits: other, give: []series.Entry{entry(n, "up", "group", "c", "pod", "a"), entry(n, "up", "cluster", "c", "__replica__", "b"), entry("a", "1", "group", "c", "pod", "b")},
			want: `{__name__="up", group="c"} {__name__="up", __replica__="b", cluster="c"}`, dropped: Dropped{1, 1, 1}},
		"one label for both": {limits: func(l *limits.Limits) { l.HAReplicaLabel = "cluster" },
			give: []series.Entry{entry(n, "up", "cluster", "b")}, want: `{__name__="up", cluster="b"}`},
		"too many clusters": {limits: func(l *limits.Limits) { l.HAMaxClusters = 1 }, give: []series.Entry{
			entry(n, "1", "cluster", "c", "__replica__", "a"), entry(n, "2", "cluster", "new", "__replica__", "a"), entry(n, "3"),
		}, want: `{__name__="1", cluster="c"} {__name__="3"}`,
			rejected: `limit ha_max_clusters of 1 clusters exceeded: the cluster label has more as values (label cluster); send from fewer groups of replicas, and keep the values of the cluster label stable (ha_max_clusters): 2 samples rejected, first: {__name__="2", __replica__="a", cluster="new"}`},
		"long names": {give: []series.Entry{entry(n, "1", "cluster", long, "__replica__", "a"), entry(n, "2", "cluster", "c", "__replica__", long)},
			rejected: `labels cluster and __replica__ may each have up to 1024 bytes to name an HA replica, one has 1025`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHAGroup(1).has[0]
			lim := haLimits()
			if c.limits != nil {
				c.limits(&lim)
			}
			if name != "one label for both" {
				first := &series.Batch{Tenant: "team", Entries: []series.Entry{entry(n, "first", lim.HAClusterLabel, "c", lim.HAReplicaLabel, "a")}}
				h.Filter(context.Background(), first, &lim, &series.Outcome{})
			}
			b := &series.Batch{Tenant: "team", Entries: c.give}
			var out series.Outcome
			dropped := h.Filter(context.Background(), b, &lim, &out)
			var got []string
			for _, e := range b.Entries {
				got = append(got, e.Labels.String())
				if e.Hash != e.Labels.Hash() || len(e.Samples) != 2 {
					t.Errorf("wrong hash or samples of %s", e.Labels)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("accepted %s\nwant %s", s, c.want)
			}
			if dropped != c.dropped {
				t.Errorf("dropped %v, want %v", dropped, c.dropped)
			}
			if s := out.String(); !strings.HasPrefix(s, c.rejected) || (s == "") != (c.rejected == "") {
				t.Errorf("rejections %q, want %q", s, c.rejected)
			}
			if v := testutil.ToFloat64(h.deduplicated); v != float64(c.dropped.Samples+c.dropped.Histograms+c.dropped.Exemplars) {
				t.Errorf("dropped samples metric = %v", v)
			}
		})
	}
}

// TestHADuplicateLabel checks that Filter does not make a series valid that has the replica
// label twice.
func TestHADuplicateLabel(t *testing.T) {
	b := labels.NewScratchBuilder(4)
	for _, l := range [][2]string{{"__name__", "up"}, {"__replica__", "a"}, {"__replica__", "b"}, {"cluster", "c"}} {
		b.Add(l[0], l[1])
	}
	batch := &series.Batch{Tenant: "team", Entries: []series.Entry{{Labels: b.Labels(), Samples: make([]series.Sample, 1)}}}
	lim := haLimits()
	var out series.Outcome
	newHAGroup(1).has[0].Filter(context.Background(), batch, &lim, &out)
	v := validator{lim: &lim, out: &out}
	v.batch(batch)
	if len(batch.Entries) != 0 || !strings.Contains(out.String(), "duplicate_label_names") {
		t.Errorf("accepted %v, rejected %q", batch.Entries, out.String())
	}
}
