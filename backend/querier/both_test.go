package querier

import (
	"context"
	"errors"
	"maps"
	"math/rand"
	"slices"
	"strconv"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// part is one half of a source: it returns series or an error.
type part struct {
	names    []string
	err      error
	served   map[ulid.ULID]bool
	started  chan struct{} // closed when the read starts; may be nil
	wait     chan struct{} // the read ends when wait is closed; nil: at once
	released int
	// pack is an L0 pack for which the store calls covered.
	pack *ulid.ULID
	saw  bool
}

func (p *part) answer() ([]string, error) {
	if p.wait != nil {
		<-p.wait
	}
	return p.names, p.err
}

func (p *part) selection() (*series.Selection, error) {
	names, err := p.answer()
	if err != nil {
		return nil, err
	}
	s := &series.Selection{}
	s.Hold(func() { p.released++ })
	for _, n := range names {
		s.Series = append(s.Series, series.WithChunks{Labels: labels.FromStrings("__name__", n), Chunks: []series.Chunk{{}}})
	}
	return s, nil
}

type recentPart struct{ *part }

func (p recentPart) Select(context.Context, series.Request) (*series.Selection, store.Covered, error) {
	sel, err := p.selection()
	return sel, p.serves, err
}
func (p recentPart) LabelNames(context.Context, series.Request) ([]string, store.Covered, error) {
	names, err := p.answer()
	return names, p.serves, err
}
func (p recentPart) LabelValues(context.Context, string, series.Request) ([]string, store.Covered, error) {
	names, err := p.answer()
	return names, p.serves, err
}
func (p recentPart) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, nil
}
func (p recentPart) serves(id ulid.ULID) bool { return p.served[id] }

type longPart struct{ *part }

func (p longPart) ask(covered store.Covered) {
	if p.started != nil {
		close(p.started)
	}
	if p.pack != nil {
		p.saw = covered(*p.pack)
	}
}

func (p longPart) Select(_ context.Context, _ series.Request, covered store.Covered) (*series.Selection, error) {
	p.ask(covered)
	return p.selection()
}

func (p longPart) LabelNames(_ context.Context, _ series.Request, covered store.Covered) ([]string, error) {
	p.ask(covered)
	return p.answer()
}

func (p longPart) LabelValues(_ context.Context, _ string, _ series.Request, covered store.Covered) ([]string, error) {
	p.ask(covered)
	return p.answer()
}

// TestBoth checks that the result is the union, that an error of either part is
// an error of the whole, and that all selections are released.
func TestBoth(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name         string
		recent, long part
		want         []string
		err          error
	}{
		{"union", part{names: []string{"a", "b"}}, part{names: []string{"b", "c"}}, []string{"a", "b", "c"}, nil},
		{"recent only", part{names: []string{"a"}}, part{}, []string{"a"}, nil},
		{"long only", part{}, part{names: []string{"a"}}, []string{"a"}, nil},
		{"recent fails", part{err: broken}, part{names: []string{"a"}}, nil, broken},
		{"long fails", part{names: []string{"a"}}, part{err: broken}, nil, broken},
	} {
		recent, long := c.recent, c.long
		b := Both(recentPart{&recent}, longPart{&long})
		sel, err := b.Select(context.Background(), series.Request{})
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		if err == nil {
			for _, s := range sel.Series {
				got = append(got, s.Labels.Get("__name__"))
				if n := len(s.Chunks); n != 1 && (n != 2 || s.Labels.Get("__name__") != "b") {
					t.Errorf("%s: series %s has %d chunks, want one of each part that has it", c.name, s.Labels, n)
				}
			}
			sel.Release()
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		for what, p := range map[string]*part{"recent": &recent, "long": &long} {
			if p.err == nil && p.released != 1 {
				t.Errorf("%s: the selection of %s was released %d times, want 1", c.name, what, p.released)
			}
		}
		if names, err := b.LabelNames(context.Background(), series.Request{}); !errors.Is(err, c.err) || c.err == nil && !slices.Equal(names, c.want) {
			t.Errorf("%s: label names %q, %v", c.name, names, err)
		}
	}
}

// TestCoveredIsAskedAfterwards checks that the function `covered` waits for the
// ingesters' response, before which an ingester could still drop the pack.
func TestCoveredIsAskedAfterwards(t *testing.T) {
	id := ulid.Make()
	recent, long := part{served: map[ulid.ULID]bool{id: true}, wait: make(chan struct{})}, part{pack: &id, started: make(chan struct{})}
	go func() {
		<-long.started
		recent.served[id] = false // dropped before the ingester answered
		close(recent.wait)
	}()
	sel, err := Both(recentPart{&recent}, longPart{&long}).Select(context.Background(), series.Request{})
	if err != nil {
		t.Fatal(err)
	}
	sel.Release()
	if long.saw {
		t.Error("covered returned true for a pack that is not in the ingester's response")
	}
}

func TestBothLimit(t *testing.T) {
	recent, long := part{names: []string{"a", "b"}}, part{names: []string{"c"}}
	var exceeded *limits.Exceeded
	if _, err := Both(recentPart{&recent}, longPart{&long}).Select(context.Background(), series.Request{MaxSeries: 2}); !errors.As(err, &exceeded) {
		t.Errorf("three series with a limit of two: error %v", err)
	}
	if recent.released != 1 || long.released != 1 {
		t.Errorf("selections were released %d and %d times, want once each", recent.released, long.released)
	}
}

// TestUnionIsSorted checks that the union has each series once, with the chunks
// of all lists, sorted by labels.
func TestUnionIsSorted(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for range 200 {
		want := map[string]int{}
		var all []series.WithChunks
		for range 1 + rnd.Intn(3) {
			var list []series.WithChunks
			for i := range 30 {
				if rnd.Intn(3) > 0 {
					continue
				}
				ls := labels.FromStrings("__name__", "m", "i", strconv.Itoa(i))
				list = append(list, series.WithChunks{Labels: ls, Chunks: []series.Chunk{{}}})
				want[ls.String()]++
			}
			series.Sort(list)
			var err error
			if all, err = series.Merge(all, list, 0); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]int{}
		for _, s := range all {
			got[s.Labels.String()] = len(s.Chunks)
		}
		if !slices.IsSortedFunc(all, func(a, b series.WithChunks) int { return labels.Compare(a.Labels, b.Labels) }) || !maps.Equal(got, want) || len(all) != len(want) {
			t.Fatalf("union = %v, want %v", got, want)
		}
	}
}
