package querier

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSeriesByRemoteRead checks that a chunk querier reads chunks even with the
// hint of the series API, which remote read passes on.
func TestSeriesByRemoteRead(t *testing.T) {
	b := newBed(t)
	q, err := b.q.ChunkQuerier(start, start+60_000)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	q.Select(b.as("a"), true, &storage.SelectHints{Start: start, End: start + 60_000, Func: "series"}, everything)
	if b.source.last().LabelsOnly {
		t.Error("chunk querier requested only labels")
	}
}

// noExemplars is a source without exemplars.
type noExemplars struct{ *fakeSource }

func (noExemplars) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, nil
}

// TestNoExemplars checks that the result without exemplars is an empty list, as
// in Prometheus, not null.
func TestNoExemplars(t *testing.T) {
	b := newBed(t)
	q, err := NewQueryable(noExemplars{b.source}, b.q.now, b.q.logger).ExemplarQuerier(b.as("a"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.Select(start, start+1, []*labels.Matcher{everything})
	if err != nil || got == nil || len(got) != 0 {
		t.Errorf("Select = %v, %v, want an empty list", got, err)
	}
}

// TestTooLarge checks after which errors fewer steps may be evaluated.
func TestTooLarge(t *testing.T) {
	lim := &limits.Limits{}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"none", nil, false},
		{"a limit", fmt.Errorf("query: %w", limits.MaxQuerySamples.Exceeded(lim, limits.More)), true},
		{"the limit of time", TimedOut(lim), false},
		{"no memory left", promql.ErrStorage{Err: fmt.Errorf("read: %w", memory.ErrFull)}, true},
		{"ended because memory was short", promql.ErrStorage{Err: memory.ErrEnded}, false},
		{"unreadable", promql.ErrStorage{Err: errors.New("the store is down")}, false},
	} {
		if got := (&Engine{}).TooLarge(tt.err); got != tt.want {
			t.Errorf("%s: too large = %t", tt.name, got)
		}
	}
}
