package querier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// peer is a fake ingester. It returns its series, fails, or hangs.
type peer struct {
	names   []string
	pack    ulid.ULID
	err     error
	hangs   bool
	version series.IngesterVersion

	asked, held atomic.Int32
}

func (p *peer) Select(ctx context.Context, _ series.Request) (*series.Selection, []ulid.ULID, error) {
	p.asked.Add(1)
	if p.hangs {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	if p.err != nil {
		return nil, nil, p.err
	}
	s := &series.Selection{}
	p.held.Add(1)
	s.Hold(func() { p.held.Add(-1) })
	for _, n := range p.names {
		s.Series = append(s.Series, series.WithChunks{Labels: labels.FromStrings("__name__", n), Chunks: []series.Chunk{{}}})
	}
	return s, []ulid.ULID{p.pack}, nil
}

func (p *peer) Labels(ctx context.Context, _ string, req series.Request) ([]string, []ulid.ULID, error) {
	s, packs, err := p.Select(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	s.Release()
	return p.names, packs, nil
}

func (p *peer) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	var out []exemplar.QueryResult
	for i, n := range p.names {
		out = append(out, exemplar.QueryResult{SeriesLabels: labels.FromStrings("__name__", n), Exemplars: []exemplar.Exemplar{{Value: float64(i), Ts: int64(i)}}})
	}
	return out, p.err
}

func (p *peer) Metadata(context.Context, tenant.ID) ([]series.MetricMetadata, error) {
	return make([]series.MetricMetadata, len(p.names)), p.err
}

func (p *peer) SeriesCount(context.Context, tenant.ID) (int, error) { return len(p.names), p.err }
func (p *peer) HeadStats(context.Context, tenant.ID) (series.HeadStats, error) {
	n := int64(len(p.names))
	return series.HeadStats{Chunks: 2 * n, MinTime: 100 - n, MaxTime: 100 + n}, p.err
}
func (p *peer) Version(context.Context, tenant.ID) (series.IngesterVersion, error) {
	return p.version, p.err
}

func id(n byte) (u ulid.ULID) { u[0] = n; return u }

// isAll reports whether err wraps `want`, or every error that `want` joins.
func isAll(err, want error) bool {
	joined, ok := want.(interface{ Unwrap() []error })
	if !ok {
		return errors.Is(err, want)
	}
	for _, w := range joined.Unwrap() {
		if !errors.Is(err, w) {
			return false
		}
	}
	return true
}

// TestIngesters checks which responses form a quorum. Every acknowledged series is in
// at least two of three zones; a result must have every acknowledged series.
func TestIngesters(t *testing.T) {
	down := errors.New("down")
	exceeded := limits.MaxQuerySeries.ExceededAt(1, limits.More)
	tests := []struct {
		name  string
		set   func(p map[string]*peer)
		lost  []string
		want  error // nil: all series
		asked int   // maximum number of called peers, of 6; 0: not checked
		stop  bool  // the query ends only at its deadline
	}{
		{name: "all respond", asked: 4},
		{name: "one fails", set: func(p map[string]*peer) { p["a1"].err = down }},
		{name: "a zone fails", set: func(p map[string]*peer) { p["b1"].err, p["b2"].err = down, down }},
		{name: "one hangs", set: func(p map[string]*peer) { p["c2"].hangs = true }},
		{name: "a zone hangs", set: func(p map[string]*peer) { p["a1"].hangs, p["a2"].hangs = true, true }},
		{name: "one of each of two zones fails", set: func(p map[string]*peer) { p["a1"].err, p["b1"].err = down, down }, want: peers.ErrTooFew, asked: 6},
		{name: "two zones fail", set: func(p map[string]*peer) { p["a1"].err, p["a2"].err, p["c1"].err, p["c2"].err = down, down, down, down }, want: peers.ErrTooFew},
		{name: "a limit is exceeded", set: func(p map[string]*peer) {
			for _, x := range p {
				x.err = exceeded
			}
		}, want: exceeded},
		{name: "no memory in this process", set: func(p map[string]*peer) {
			for _, x := range p {
				x.err = fmt.Errorf("series: %w", memory.ErrFull)
			}
		}, want: memory.ErrFull, asked: 4},
		{name: "ended by the memory account of this process", set: func(p map[string]*peer) {
			for _, x := range p {
				x.err = fmt.Errorf("series: %w", memory.ErrEnded)
			}
		}, want: memory.ErrEnded, asked: 4},
		{name: "ended by the memory account of an ingester", set: func(p map[string]*peer) { p["a1"].err = memory.ErrEndedElsewhere }},
		{name: "ended by the memory accounts of ingesters of two zones", set: func(p map[string]*peer) {
			p["a1"].err, p["b1"].err = memory.ErrEndedElsewhere, memory.ErrEndedElsewhere
		}, want: errors.Join(peers.ErrTooFew, memory.ErrEndedElsewhere), asked: 6},
		{name: "lost, all respond", lost: []string{"zone a"}},
		{name: "lost, and one of its zone fails", lost: []string{"zone a"}, set: func(p map[string]*peer) { p["a2"].err = down }},
		{name: "lost, and one of another zone fails", lost: []string{"zone a"}, set: func(p map[string]*peer) { p["b2"].err = down }, want: peers.ErrTooFew},
		{name: "lost, and one of another zone hangs", lost: []string{"zone a"}, set: func(p map[string]*peer) { p["b2"].hangs = true }, want: context.DeadlineExceeded, stop: true},
		{name: "lost in a zone that is gone", lost: []string{"zone d"}, set: func(p map[string]*peer) { p["b2"].err = down }, want: peers.ErrTooFew},
		{name: "lost in two zones", lost: []string{"zone a", "zone b"}, want: peers.ErrTooFew},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Each of 30 series is on one ingester in each of two zones.
			byName := map[string]*peer{}
			var list []Peer
			for i, name := range []string{"a1", "a2", "b1", "b2", "c1", "c2"} {
				byName[name] = &peer{pack: id(byte(i + 1))}
				list = append(list, Peer{ID: name, Domain: "zone " + name[:1], Client: byName[name]})
			}
			var all []string
			for i := range 30 {
				s := fmt.Sprintf("s%02d", i)
				all = append(all, s)
				for k := range 2 { // two zones of three, the replica in each by turns
					p := byName[fmt.Sprintf("%c%d", 'a'+(i+k)%3, 1+(i/3+k)%2)]
					p.names = append(p.names, s)
				}
			}
			for _, l := range tt.lost { // the lost data is gone
				if p := byName[l[5:]+"1"]; p != nil {
					p.names = nil
				}
			}
			if tt.set != nil {
				tt.set(byName)
			}
			for _, tenantID := range []tenant.ID{"t", "u", "v", "w"} {
				in := NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) { return list, nil }, Tolerate: 1, HedgeAfter: 20 * time.Millisecond,
					Lost: func(context.Context, tenant.ID, int64, int64) ([]string, error) { return tt.lost, nil }})
				req := series.Request{Tenant: tenantID}
				ctx, labelCtx := context.Background(), context.Background()
				if tt.stop { // the other ingesters respond long before the deadline
					var cancel, labelCancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
					defer cancel()
					labelCtx, labelCancel = context.WithTimeout(labelCtx, 600*time.Millisecond)
					defer labelCancel()
				}
				sel, served, err := in.Select(ctx, req)
				names, _, labelErr := in.LabelValues(labelCtx, "x", req)
				if tt.want != nil {
					if !isAll(err, tt.want) || !isAll(labelErr, tt.want) {
						t.Fatalf("errors = %v and %v, want %v", err, labelErr, tt.want)
					}
					if errors.Is(err, peers.ErrTooFew) != errors.Is(tt.want, peers.ErrTooFew) {
						t.Errorf("error %v says that ingesters are unavailable", err)
					}
					continue
				}
				if err != nil || labelErr != nil {
					t.Fatal(err, labelErr)
				}
				var got []string
				for _, s := range sel.Series {
					got = append(got, s.Labels.Get("__name__"))
				}
				slices.Sort(got)
				if !slices.Equal(got, all) || !slices.Equal(names, all) {
					t.Errorf("tenant %s: got series %v and values %v", tenantID, got, names)
				}
				for _, p := range list {
					x := byName[p.ID]
					if served(x.pack) && x.asked.Load() == 0 {
						t.Errorf("the pack of %s is reported as covered", p.ID)
					}
				}
				sel.Release()
			}
			if tt.asked > 0 {
				in := NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) { return list, nil }, Tolerate: 1, HedgeAfter: time.Minute})
				for _, x := range byName {
					x.asked.Store(0)
				}
				if sel, _, err := in.Select(context.Background(), series.Request{Tenant: "t"}); err == nil {
					sel.Release()
				}
				n := 0
				for _, x := range byName {
					n += int(x.asked.Load())
				}
				if n > tt.asked {
					t.Errorf("%d ingesters were called, want at most %d", n, tt.asked)
				}
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				held := int32(0)
				for _, x := range byName {
					held += x.held.Load()
				}
				if held == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d responses are not released", held)
				}
			}
		})
	}
}

func TestOneIngester(t *testing.T) {
	p := &peer{names: []string{"a"}, pack: id(7)}
	sel, served, err := OneIngester(p).Select(context.Background(), series.Request{Tenant: "t"})
	if err != nil || len(sel.Series) != 1 || !served(id(7)) || served(id(8)) {
		t.Fatalf("%+v, %v", sel, err)
	}
	p.err = errors.New("down")
	if _, _, err := OneIngester(p).Select(context.Background(), series.Request{Tenant: "t"}); !errors.Is(err, peers.ErrTooFew) || !strings.Contains(err.Error(), "down") {
		t.Errorf("%v", err)
	}
	none := NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) { return nil, nil }})
	if _, _, err := none.Select(context.Background(), series.Request{Tenant: "t"}); !errors.Is(err, peers.ErrTooFew) {
		t.Errorf("without ingesters: error = %v", err)
	}
}

func TestExemplarsOfReplicas(t *testing.T) {
	list := []Peer{{ID: "1", Domain: "1", Client: &peer{names: []string{"a", "b"}}}, {ID: "2", Domain: "2", Client: &peer{names: []string{"b", "c"}}}}
	in := NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) { return list, nil }})
	got, err := in.Exemplars(context.Background(), "t", 0, 1, nil)
	if err != nil || len(got) != 3 || len(got[1].Exemplars) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}
