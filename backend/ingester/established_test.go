package ingester

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/backend/series"
)

// TestEstablished checks that series that another replica has are accepted beyond a
// limit or in a full head, up to a tenth of the limit or of the memory budget, and
// are counted as long as they exist.
func TestEstablished(t *testing.T) {
	push := func(b *bench, name string, n int) series.Outcome {
		b.t.Helper()
		out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: b.some(name, n), Established: true})
		if err != nil {
			b.t.Fatal(err)
		}
		return out
	}
	t.Run("without a budget", func(t *testing.T) {
		b := atWindowStart(t)
		b.lim.MaxActiveSeries = 100
		b.push("a", b.some("m", 95)...)
		if out := push(b, "e", 30); out.Samples != 15 || len(out.Created) != 15 || reasons(out)["max_active_series"] != 15 {
			t.Errorf("established series: %+v, want five accepted within the limit and ten beyond", out)
		}
		if n := testutil.ToFloat64(b.ing.metrics.established); n != 10 {
			t.Errorf("%g series are counted as accepted beyond their share, want 10", n)
		}
		if out := push(b, "f", 3); reasons(out)["max_active_series"] != 3 {
			t.Errorf("beyond a tenth: %+v, want all series rejected", out)
		}
		b.ing.counted(t)
		b.set(b.now.Add(time.Hour))
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
		b.ing.counted(t)
		b.push("a", b.some("m", 100)...)
		if out := push(b, "g", 10); out.Samples != 10 || out.Rejections != nil {
			t.Errorf("after the other series were removed: %+v, want all series accepted", out)
		}
	})
	for _, percent := range []float64{82, 89} {
		t.Run(fmt.Sprint("at ", percent), func(t *testing.T) {
			b := atWindowStart(t)
			b.push("a", b.some("m", 5000)...)
			b.fill(percent)
			if out := b.push("a", b.some("e", 10)...); reasons(out)["instance_memory"] != 10 {
				t.Fatalf("not established: %+v, want all series rejected", out)
			}
			if out := push(b, "e", 10); out.Samples != 10 || len(out.Created) != 10 {
				t.Errorf("established: %+v, want all series accepted", out)
			}
			if n := b.ing.account.established.Load(); n <= 0 {
				t.Errorf("%d established bytes, want more than 0", n)
			}
			b.ing.account.established.Store(b.ing.opts.MemoryBytes / establishedPart) // the maximum
			if out := push(b, "f", 10); reasons(out)["instance_memory"] != 10 {
				t.Errorf("beyond a tenth: %+v, want all series rejected", out)
			}
			b.lim.MaxActiveSeries = 1
			if out := push(b, "f", 10); reasons(out)["max_active_series"] != 10 {
				t.Errorf("beyond a tenth and the limit: %+v, want all series rejected by the limit", out)
			}
		})
	}
	t.Run("bounded by bytes", func(t *testing.T) {
		b := atWindowStart(t)
		b.lim.MaxActiveSeries = 1
		b.ing.opts.MemoryBytes = 1 << 20
		out := push(b, "e", 2000)
		if n := b.ing.account.established.Load(); n > 110_000 || n < 90_000 || out.Samples+reasons(out)["max_active_series"] != 2000 {
			t.Errorf("%d established bytes, want about 105,000; %d samples, rejections %v", n, out.Samples, reasons(out))
		}
		b.ing.counted(t)
		b.set(b.now.Add(time.Hour))
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
		if n := b.ing.account.established.Load(); n != 0 {
			t.Errorf("%d established bytes, want 0", n)
		}
	})
}

// TestCreated checks the indexes of entries of new series in the outcome.
func TestCreated(t *testing.T) {
	b := atWindowStart(t)
	b.lim.MaxActiveSeries = 4
	now := b.now.UnixMilli()
	m := func(i int, at int64) series.Entry { return entry(metric("m", "i", fmt.Sprint(i)), f(now+at, 1)) }
	b.push("a", m(0, 0))
	for _, c := range []struct {
		entries []series.Entry
		want    []int
	}{
		{[]series.Entry{m(0, 1)}, nil},
		{[]series.Entry{m(1, 1), m(0, 2), m(2, 1), m(1, 2)}, []int{0, 2, 3}}, // series 1 is twice in the request: both entries are listed
		{[]series.Entry{m(7, 1), m(8, 1), m(0, 3)}, []int{0}},                // series 8 is beyond the limit
		{[]series.Entry{m(8, 1), m(7, 2), m(2, 2)}, nil},
	} {
		if out := b.push("a", c.entries...); !slices.Equal(out.Created, c.want) || (out.Created == nil) != (c.want == nil) {
			t.Errorf("created %v, want %v", out.Created, c.want)
		}
	}
	b.set(b.now.Add(pressedIdle + time.Minute))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	b.ing.sealMu.Lock()
	b.ing.dropIdle(idleTimesAt(b.now, pressedIdle))
	b.ing.sealMu.Unlock()
	if n := b.ing.seriesCount(); n != 0 {
		t.Fatalf("%d series are left", n)
	}
	if out := b.push("a", m(2, 5), m(2, 6)); out.Created != nil || out.Samples != 2 { // the series is reserved, so it does not count as created
		t.Errorf("reserved series: %+v, want 2 samples and none created", out)
	}
}
