package querier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
)

// fails, as a number of series, means an ingester whose calls fail.
const fails = -1

// answers returns ingesters of domains with the given numbers of series.
func answers(domains [][]int, replication int) *Ingesters {
	var list []Peer
	for i, d := range domains {
		for k, n := range d {
			p := &peer{}
			if n == fails {
				p.err = errors.New("no answer")
			}
			p.names = make([]string, max(n, 0))
			list = append(list, Peer{ID: fmt.Sprintf("ingester-%d-%d", i, k), Domain: fmt.Sprintf("zone-%d", i), Client: p})
		}
	}
	return NewIngesters(IngestersOptions{Tolerate: (replication - 1) / 2, Peers: func(context.Context) ([]Peer, error) { return list, nil }})
}

// largest returns the largest number of series of an ingester.
func largest(domains [][]int) int64 {
	n := 0
	for _, d := range domains {
		n = max(n, slices.Max(d))
	}
	return int64(n)
}

// TestAnswersOfIngesters checks that counts and metadata are either complete or an error.
func TestAnswersOfIngesters(t *testing.T) {
	tests := []struct {
		name        string
		replication int
		domains     [][]int // series of each ingester of each domain
		count       int     // -1: want an error
		metadata    bool    // want success
	}{
		{"three", 3, [][]int{{10}, {10}, {10}}, 10, true},
		{"three, one with fewer series", 3, [][]int{{10}, {9}, {10}}, 10, true},
		{"three, one unavailable", 3, [][]int{{10}, {fails}, {10}}, 10, true},
		{"three, two unavailable", 3, [][]int{{10}, {fails}, {fails}}, -1, false},
		{"all unavailable", 3, [][]int{{fails}, {fails}, {fails}}, -1, false},
		{"none", 3, nil, -1, false},
		{"one zone is not in the ring", 3, [][]int{{10}, {10}}, 10, true},
		{"one zone is not in the ring, one unavailable", 3, [][]int{{10}, {fails}}, -1, false},
		{"zones of two", 3, [][]int{{4, 6}, {5, 5}, {3, 7}}, 10, true},
		{"zones of two, one unavailable", 3, [][]int{{4, 6}, {5, fails}, {3, 7}}, 10, true},
		{"zones of two, unavailable in two", 3, [][]int{{4, 6}, {5, fails}, {fails, 7}}, -1, false},
		{"six without zones", 3, [][]int{{5}, {5}, {5}, {5}, {5}, {5}}, 10, true},
		{"six without zones, one unavailable", 3, [][]int{{5}, {5}, {5}, {5}, {5}, {fails}}, -1, true},
		{"six without zones, two unavailable", 3, [][]int{{5}, {5}, {5}, {5}, {fails}, {fails}}, -1, false},
		{"one replica", 1, [][]int{{10}}, 10, true},
		{"one replica, one of two unavailable", 1, [][]int{{10}, {fails}}, -1, false},
	}
	for _, tt := range tests {
		in := answers(tt.domains, tt.replication)
		n, err := in.SeriesCount(t.Context(), "t")
		if (err != nil) != (tt.count < 0) || err == nil && n != tt.count || err != nil && !errors.Is(err, peers.ErrTooFew) {
			t.Errorf("%s: SeriesCount = %d, %v; want %d", tt.name, n, err, tt.count)
		}
		// Each of the peers has two chunks per series, before and after the time 100.
		h, err := in.HeadStats(t.Context(), "t")
		if (err != nil) != (tt.count < 0) || err == nil && (h.Chunks != int64(2*tt.count) || h.MinTime != 100-largest(tt.domains) || h.MaxTime != 100+largest(tt.domains)) ||
			err != nil && !errors.Is(err, peers.ErrTooFew) {
			t.Errorf("%s: HeadStats = %+v, %v; want %d chunks", tt.name, h, err, 2*tt.count)
		}
		list, err := in.Metadata(t.Context(), "t")
		if (err == nil) != tt.metadata || err == nil && len(list) == 0 || err != nil && !errors.Is(err, peers.ErrTooFew) {
			t.Errorf("%s: Metadata has %d entries, error %v; want success: %t", tt.name, len(list), err, tt.metadata)
		}
	}
}

// remote behaves like the rpc client of an ingester: it does not respond after the caller's context
// has ended.
type remote struct {
	peer
	hangs bool
}

func (r *remote) answer(ctx context.Context) error {
	if r.hangs {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (r *remote) Metadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	if err := r.answer(ctx); err != nil {
		return nil, err
	}
	return r.peer.Metadata(ctx, id)
}

func (r *remote) SeriesCount(ctx context.Context, id tenant.ID) (int, error) {
	if err := r.answer(ctx); err != nil {
		return 0, err
	}
	return r.peer.SeriesCount(ctx, id)
}

// TestLargeZoneHangs checks that many hanging ingesters of one zone do not
// delay the calls to those of other zones.
func TestLargeZoneHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list []Peer
		for zone := range 3 {
			for i := range 20 {
				list = append(list, Peer{ID: fmt.Sprintf("ingester-%d-%d", zone, i), Domain: fmt.Sprintf("zone-%d", zone),
					Client: &remote{peer: peer{names: make([]string, 5)}, hangs: zone == 0}})
			}
		}
		in := NewIngesters(IngestersOptions{Tolerate: 1, Peers: func(context.Context) ([]Peer, error) { return list, nil }})
		if n, err := in.SeriesCount(t.Context(), "t"); err != nil || n != 100 {
			t.Errorf("SeriesCount = %d, %v; want 100", n, err)
		}
		if list, err := in.Metadata(t.Context(), "t"); err != nil || len(list) != 200 {
			t.Errorf("Metadata has %d entries, error %v; want those of two zones", len(list), err)
		}
	})
}

// published has the metadata of days of the long-term store.
type published map[int64][]series.MetricMetadata

func (p published) Metadata(_ context.Context, _ tenant.ID, from, to int64) ([]series.MetricMetadata, error) {
	var out []series.MetricMetadata
	for day := to; day >= from; day-- {
		out = append(out, p[day]...)
	}
	return out, nil
}

// known is an ingester with metadata.
type known struct {
	peer
	list []series.MetricMetadata
}

func (k *known) Metadata(context.Context, tenant.ID) ([]series.MetricMetadata, error) {
	return k.list, k.err
}

// TestMetadata checks that metadata of ingesters is preferred, that other metrics have the
// metadata published for today and the two days before, and that Metadata fails without ingesters.
func TestMetadata(t *testing.T) {
	of := func(metric, help string) series.MetricMetadata {
		m := series.MetricMetadata{Metric: metric}
		m.Help = help
		return m
	}
	now := time.UnixMilli(100*series.DayMillis + 5)
	long := published{100: {of("a", "published")}, 98: {of("c", "published")}, 97: {of("d", "too old")}}
	ing := &known{list: []series.MetricMetadata{of("b", "recent"), of("a", "recent")}}
	got, err := Metadata(t.Context(), OneIngester(ing), long, "t", now)
	text := ""
	for _, m := range got {
		text += m.Metric + " " + m.Help + ";"
	}
	if want := "a recent;b recent;c published;"; err != nil || text != want {
		t.Errorf("%s, %v; want %s", text, err, want)
	}
	ing.err = errors.New("down")
	if got, err := Metadata(t.Context(), OneIngester(ing), long, "t", now); err == nil {
		t.Errorf("Metadata without ingesters = %v, want an error", got)
	}
}
