package querier

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// containing is a filter that calls the function `each`, and accepts values that contain a text.
type containing struct {
	text string
	each func()
}

func (c containing) Accept(v string) (bool, float64) {
	if c.each != nil {
		c.each()
	}
	return strings.Contains(v, c.text), 0.5
}

func (b *bed) searcher(t *testing.T) storage.Searcher {
	t.Helper()
	q, _ := b.q.Querier(start, start+series.DayMillis)
	t.Cleanup(func() { _ = q.Close() })
	return q.(storage.Searcher)
}

func found(set storage.SearchResultSet) ([]string, error) {
	defer set.Close()
	var out []string
	for set.Next() {
		out = append(out, set.At().Value)
	}
	return out, set.Err()
}

// TestSearch checks the orders and limits of a search, and that it stays within its tenant.
func TestSearch(t *testing.T) {
	b := newBed(t)
	all := storage.SearchHints{}
	tests := []struct {
		name  string
		id    tenant.ID
		label string // "" for the names
		hints *storage.SearchHints
		want  string
	}{
		{"values", "a", "__name__", &all, "up"},
		{"values of b", "b", "__name__", &all, "secret"},
		{"a tenant without series", "c", "__name__", &all, ""},
		{"names", "a", "", &all, "__name__ i"},
		{"nil hints", "a", "", nil, "__name__ i"},
		{"limit", "a", "", &storage.SearchHints{Limit: 1}, "__name__"},
		{"descending", "a", "", &storage.SearchHints{Limit: 1, OrderBy: storage.OrderByValueDesc}, "i"},
		{"filter", "a", "", &storage.SearchHints{Limit: 1, Filter: containing{text: "i"}}, "i"},
		{"filter, by score", "a", "", &storage.SearchHints{Limit: 5, Filter: containing{}, OrderBy: storage.OrderByScoreDesc}, "__name__ i"},
	}
	for _, tt := range tests {
		s := b.searcher(t)
		set := s.SearchLabelNames(b.as(tt.id), tt.hints)
		if tt.label != "" {
			set = s.SearchLabelValues(b.as(tt.id), tt.label, tt.hints)
		}
		if got, err := found(set); err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	if _, err := found(b.searcher(t).SearchLabelNames(context.Background(), &all)); err == nil {
		t.Error("a search without a tenant succeeded")
	}
}

// TestSearchFails checks that a search that fails, is too large or is canceled returns an error,
// never a shorter list.
func TestSearchFails(t *testing.T) {
	b := newBed(t)
	ctx, cancel := context.WithCancel(b.as("a"))
	scored := 0
	set := b.searcher(t).SearchLabelNames(ctx, &storage.SearchHints{Filter: containing{each: func() { scored++; cancel() }}})
	if got, err := found(set); err == nil || len(got) > 0 || scored != 1 {
		t.Errorf("canceled while it scored: %v, %v after %d names", got, err, scored)
	}
	account := memory.NewAccount(1<<20, nil)
	small := account.Begin(memory.Request{Tenant: "a", Limit: 100})
	defer small.Close()
	var exceeded *limits.Exceeded
	if got, err := found(b.searcher(t).SearchLabelNames(memory.NewContext(b.as("a"), small), nil)); !errors.As(err, &exceeded) || len(got) > 0 {
		t.Errorf("above the memory limit: %v, %v", got, err)
	}
	b.source.err = errors.New("disk on fire")
	if got, err := found(b.searcher(t).SearchLabelValues(b.as("a"), "i", nil)); err == nil || len(got) > 0 || strings.Contains(err.Error(), "fire") {
		t.Errorf("unreadable: %v, %v", got, err)
	}
}

// TestSearchMemory checks that results and the values that a filter keeps are charged.
func TestSearchMemory(t *testing.T) {
	list := slices.Repeat([]string{strings.Repeat("x", 100)}, 1000)
	for _, tt := range []struct {
		hints storage.SearchHints
		want  int64
	}{
		{storage.SearchHints{}, 1000 * resultBytes},
		{storage.SearchHints{Limit: 10}, 10 * resultBytes},
		{storage.SearchHints{Limit: 10, Filter: containing{}}, 10*resultBytes + 1000*(rememberedBytes+100)},
	} {
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a"})
		if err := chargeSearch(memory.NewContext(context.Background(), h), list, &tt.hints); err != nil || h.Used() != tt.want {
			t.Errorf("%+v: %d bytes, %v; want %d", tt.hints, h.Used(), err, tt.want)
		}
		h.Close()
	}
}

// TestCounting checks that a selection for counting reads only labels and charges no text.
func TestCounting(t *testing.T) {
	b := newBed(t)
	used := map[bool]int64{}
	for _, counting := range []bool{false, true} {
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a"})
		q, _ := b.q.Querier(start, start+series.DayMillis)
		ctx := memory.NewContext(b.as("a"), h)
		if counting {
			ctx = Counting(ctx)
		}
		set := q.Select(ctx, true, &storage.SelectHints{Start: start, End: start + series.DayMillis, Func: "series"},
			labels.MustNewMatcher(labels.MatchEqual, "__name__", "up"))
		if !set.Next() || set.Err() != nil || !b.source.last().LabelsOnly {
			t.Errorf("%v: %v, %+v", counting, set.Err(), b.source.last())
		}
		used[counting] = h.Used()
		_ = q.Close()
		h.Close()
	}
	if used[true] == 0 || used[true] >= used[false] {
		t.Errorf("charged %v", used)
	}
}
