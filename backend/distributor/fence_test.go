package distributor

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestFence checks that a write with a fence reaches the ingester only if its sender still
// holds the share, and that writes without a fence are not affected.
func TestFence(t *testing.T) {
	lim := limits.Default()
	current := func(_ context.Context, share int, number uint64) error {
		if share != 3 || number != 5 {
			return series.ErrFenced
		}
		return nil
	}
	for _, c := range []struct {
		what  string
		check func(context.Context, int, uint64) error
		fence *series.Fence
		want  error
	}{
		{"no fence", current, nil, nil},
		{"no fence and no check", nil, nil, nil},
		{"current holder", current, &series.Fence{Share: 3, Number: 5}, nil},
		{"earlier holder", current, &series.Fence{Share: 3, Number: 4}, series.ErrFenced},
		{"fence without a check", nil, &series.Fence{Share: 3, Number: 5}, errNoFence},
	} {
		f := &fakeIngester{}
		l := labels.FromStrings("__name__", "recorded")
		b := &series.Batch{Tenant: "a", Limits: &lim, Fence: c.fence,
			Entries: []series.Entry{{Labels: l, Hash: l.Hash(), Samples: []series.Sample{{T: time.Now().UnixMilli(), V: 1}}}}}
		_, err := New(Options{Local: f, Fence: c.check}).Push(t.Context(), b)
		if !errors.Is(err, c.want) || len(f.series) != map[bool]int{true: 1}[c.want == nil] {
			t.Errorf("%s: error %v, want %v; the ingester got %v", c.what, err, c.want, f.series)
		}
	}
}

// TestFenceWithoutHA checks that recorded samples are stored although their labels are those of a replica that is
// not elected: they come from one ruler.
func TestFenceWithoutHA(t *testing.T) {
	lim := haLimits()
	f := &fakeIngester{}
	elections := election.NewMemory(time.Now)
	d := New(Options{Local: f, Fence: func(context.Context, int, uint64) error { return nil },
		HA: NewHA(HAOptions{Store: elections, Now: time.Now})})
	for i, fence := range []*series.Fence{nil, {Share: 1, Number: 1}} {
		l := labels.FromStrings("__name__", "recorded", "__replica__", string(rune('a'+i)), "cluster", "c")
		b := &series.Batch{Tenant: "a", Limits: &lim, Fence: fence,
			Entries: []series.Entry{{Labels: l, Hash: l.Hash(), Samples: []series.Sample{{T: time.Now().UnixMilli(), V: 1}}}}}
		out, err := d.Push(t.Context(), b)
		if err != nil || out.Samples != 1 || out.Deduplicated != (series.Counts{}) {
			t.Errorf("push with fence %v: %+v, %v", fence, out, err)
		}
	}
}
