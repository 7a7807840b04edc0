package distributor

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// countingIngester accepts all samples and counts them.
type countingIngester struct{ samples int }

func (k *countingIngester) Push(_ context.Context, b *series.Batch) (series.Outcome, error) {
	var out series.Outcome
	for i := range b.Entries {
		out.Samples += len(b.Entries[i].Samples)
	}
	k.samples += out.Samples
	return out, nil
}

// TestRequestWindows checks that the windows of a request are bounded independent of limits
// and of the order of samples, and that further samples are rejected.
func TestRequestWindows(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	at := func(n int) series.Sample { return series.Sample{T: int64(n) * series.WindowMillis, V: 1} }
	for name, tc := range map[string]struct {
		windows, rejected int
		order             func(i int) int
	}{
		"at the bound": {maxRequestWindows, 0, func(i int) int { return i }},
		"one beyond":   {maxRequestWindows + 1, 2, func(i int) int { return i }},
		"backwards":    {maxRequestWindows + 5, 10, func(i int) int { return maxRequestWindows + 5 - i }},
		"shuffled":     {maxRequestWindows + 1, 2, func(i int) int { return i * 7919 % (maxRequestWindows + 1) }},
	} {
		t.Run(name, func(t *testing.T) {
			k := &countingIngester{}
			d := unlimited(Options{Local: k, Now: func() time.Time { return now }})
			e := series.Entry{Labels: labels.FromStrings("__name__", "m")}
			for i := range tc.windows {
				s := at(tc.order(i))
				e.Samples = append(e.Samples, s, series.Sample{T: s.T + 1, V: 2})
			}
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{e}})
			if err != nil {
				t.Fatal(err)
			}
			rejected := 0
			for _, r := range out.Rejections {
				if r.Reason != "max_request_windows" || !strings.Contains(r.Message, "1024") {
					t.Errorf("rejection %+v, want max_request_windows with the bound 1024", r)
				}
				rejected += r.Samples
			}
			if rejected != tc.rejected || k.samples != 2*tc.windows-tc.rejected {
				t.Errorf("%d samples rejected, want %d; %d of %d accepted", rejected, tc.rejected, k.samples, 2*tc.windows)
			}
		})
	}
}

// TestPaidDays checks that days other than yesterday, today and tomorrow are charged once
// per daysKept.
func TestPaidDays(t *testing.T) {
	now := time.UnixMilli(20_000*series.DayMillis + 5000)
	d := unlimited(Options{Local: &countingIngester{}, Now: func() time.Time { return now }})
	push := func(id tenant.ID, days ...int64) int {
		t.Helper()
		e := series.Entry{Labels: labels.FromStrings("__name__", "m")}
		for _, day := range days {
			e.Samples = append(e.Samples, series.Sample{T: day * series.DayMillis}, series.Sample{T: day*series.DayMillis + series.WindowMillis})
		}
		out, err := d.Push(context.Background(), &series.Batch{Tenant: id, Entries: []series.Entry{e}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Charged
	}
	for _, tc := range []struct {
		what string
		id   tenant.ID
		days []int64
		want int
	}{
		{"around now", "a", []int64{19_999, 20_000, 20_001}, 0},
		{"three old ones and a future one", "a", []int64{1, 2, 19_998, 20_002}, 4 * dayCharge},
		{"again", "a", []int64{1, 2, 19_998, 3}, dayCharge},
		{"another tenant", "b", []int64{1}, dayCharge},
	} {
		if got := push(tc.id, tc.days...); got != tc.want {
			t.Errorf("%s: charged %d, want %d", tc.what, got, tc.want)
		}
	}
	now = now.Add(daysKept)
	if got := push("a", 1); got != dayCharge {
		t.Errorf("later: charged %d, want %d", got, dayCharge)
	}
}
