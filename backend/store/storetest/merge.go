package storetest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// Merge publishes a day of all tenants that are not deleted, as a compaction does: it reads all samples of the
// day, writes them as one generation and removes the day's receipts. Then it checks that
// the store is consistent.
func (x *World) Merge(day int64) {
	x.T.Helper()
	ctx := context.Background()
	work, err := x.Store.Days(ctx)
	x.Must(nil, err)
	for _, t := range slices.Sorted(maps.Keys(x.Want)) {
		if !x.Deleted[t] {
			x.merge(t, day)
		}
	}
	for _, d := range work {
		for _, r := range d.Receipts {
			if d.Day == day {
				x.Must(nil, x.Store.MarkConsumed(ctx, day, r))
			}
		}
	}
	x.Verify()
}

func (x *World) merge(t tenant.ID, day int64) {
	x.T.Helper()
	ctx := context.Background()
	c, deletions, err := x.Store.Day(ctx, t, day)
	x.Must(nil, err)
	number, _ := deletions.Last()
	if len(c.L0) == 0 && (c.Manifest == nil || !deletions.Above(c.Manifest.Tombstone)) {
		return
	}
	metadata, err := x.Store.Metadata(ctx, t, day, day)
	x.Must(nil, err)
	samples := x.Read(t, day*series.DayMillis, (day+1)*series.DayMillis-1)
	g, err := x.Store.NewGeneration(ctx, c, number, metadata)
	x.Must(nil, err)
	list := make([]labels.Labels, 0, len(samples))
	for text := range samples {
		list = append(list, Parse(text))
	}
	slices.SortFunc(list, byMetric)
	for _, ls := range list {
		x.Must(nil, g.Add(ctx, ls, columnOf(x.T, samples[unparse(ls)])))
	}
	x.Must(g.Publish(ctx))
}

// byMetric compares series in the order of a pack.
func byMetric(a, b labels.Labels) int {
	return cmp.Or(strings.Compare(a.Get("__name__"), b.Get("__name__")), labels.Compare(a, b))
}

// columnOf converts samples to the form in which compaction writes them.
func columnOf(t testing.TB, samples map[int64]series.Sample) *column.Series {
	t.Helper()
	out := &column.Series{}
	var histograms []series.Sample
	for _, at := range slices.Sorted(maps.Keys(samples)) {
		if s := samples[at]; s.H != nil {
			histograms = append(histograms, s)
		} else {
			out.T, out.V = append(out.T, at), append(out.V, s.V)
		}
	}
	if len(histograms) > 0 {
		chunks, err := series.Encode(histograms)
		if err != nil {
			t.Fatal(err)
		}
		out.Histograms = chunks
	}
	return out
}
