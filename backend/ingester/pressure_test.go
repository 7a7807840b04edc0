package ingester

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// some returns n series of a metric with one sample each at the current time.
func (b *bench) some(name string, n int) []series.Entry {
	var out []series.Entry
	for i := range n {
		out = append(out, entry(metric(name, "i", fmt.Sprint(i)), f(b.now.UnixMilli(), 1)))
	}
	return out
}

// fill sets the memory budget so that the given percentage of it is used.
func (b *bench) fill(percent float64) {
	b.ing.opts.MemoryBytes = int64(float64(b.ing.account.bytes.Load()) * 100 / percent)
}

// tick advances the clock and runs the ingester's periodic work every ten seconds.
func (b *bench) tick(d time.Duration) {
	b.t.Helper()
	for end := b.now.Add(d); b.now.Before(end); {
		b.set(b.now.Add(tickEvery))
		if err := b.ing.sealDue(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// reasons returns the number of rejected samples by reason.
func reasons(out series.Outcome) map[string]int {
	m := map[string]int{}
	for _, r := range out.Rejections {
		m[r.Reason] += r.Samples
	}
	return m
}

// atWindowStart returns a bench at the start of a window, so that no window ends
// for two hours.
func atWindowStart(t *testing.T) *bench {
	b := newStillBench(t)
	b.set(time.UnixMilli(1_700_006_400_000))
	if err := b.ing.sealDue(); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBurstOfNewSeries fills the head with new series of one tenant. Existing
// series of all tenants must be accepted, and new series again once the first ones
// are idle.
func TestBurstOfNewSeries(t *testing.T) {
	b := atWindowStart(t)
	b.ing.opts.MemoryBytes = 4_000_000
	b.push("quiet", b.some("q", 1)...)
	accepted, rejected := 0, 0
	for part := range 40 {
		out := b.push("noisy", b.some(fmt.Sprint("m", part), 500)...)
		accepted += out.Samples
		rejected += reasons(out)["instance_memory"]
		if out.Samples+reasons(out)["instance_memory"] != 500 || len(out.Created) != out.Samples {
			t.Fatalf("part %d: %+v", part, out)
		}
		for _, r := range out.Rejections {
			if strings.Contains(r.Message, "quiet") || !strings.Contains(r.Message, "nearly full") || !strings.Contains(r.Message, "existing series are accepted") {
				t.Fatalf("message %q", r.Message)
			}
		}
	}
	if accepted < 2000 || rejected < 2000 || testutil.ToFloat64(b.ing.metrics.pressureRejected) != float64(rejected) {
		t.Fatalf("%d accepted, %d rejected, want at least 2000 each; %g counted as rejected", accepted, rejected,
			testutil.ToFloat64(b.ing.metrics.pressureRejected))
	}
	if used := b.ing.account.bytes.Load(); used < 3_190_000 || used > 3_250_000 {
		t.Errorf("%d bytes are used, want about 80%% of the budget", used)
	}
	for minute := range 10 {
		b.tick(time.Minute)
		if out := b.push("quiet", b.some("q", 1)...); out.Samples != 1 {
			t.Fatalf("minute %d: existing series of tenant quiet: %+v", minute, out)
		}
		if out := b.push("quiet", b.some(fmt.Sprint("q", minute), 1)...); out.Samples != 1 {
			t.Fatalf("minute %d: new series of tenant quiet: %+v", minute, out)
		}
		if out := b.push("noisy", b.some("m0", 100)...); out.Samples != 100 || out.Created != nil {
			t.Fatalf("minute %d: existing series of tenant noisy: %+v", minute, out)
		}
	}
	if n := b.ing.packCount(); n > 5 {
		t.Errorf("%d packs in ten minutes, want at most 5", n)
	}
	if out := b.push("noisy", b.some("later", 100)...); out.Samples != 100 || len(out.Created) != 100 {
		t.Errorf("new series after others became idle: %+v", out)
	}
	if n := b.ing.SeriesCount("noisy"); n != accepted+100 {
		t.Errorf("%d active series, want %d: removed series stay reserved", n, accepted+100)
	}
	b.tick(31 * time.Minute)
	if n := b.ing.SeriesCount("noisy"); n > 200 {
		t.Errorf("%d active series half an hour later, want at most 200", n)
	}
	b.ing.counted(t)
}

// TestRulesOfAFullHead checks which series of which tenants are accepted at which
// use of memory.
func TestRulesOfAFullHead(t *testing.T) {
	const yes, no, full = "accepted", "instance_memory", "full"
	for _, c := range []struct {
		percent                    float64
		large, small, nobody       string // results for new series; tenant nobody has no other series
		knownOfLarge, knownOfSmall string
	}{
		{79, yes, yes, yes, yes, yes},
		{82, no, yes, yes, yes, yes},
		{86, no, yes, yes, yes, yes},
		{89, no, no, no, yes, yes},
		{91, full, no, no, full, yes},
		{94, full, no, no, full, yes},
		{96, full, full, full, full, full},
		{150, full, full, full, full, full},
	} {
		t.Run(fmt.Sprint(c.percent), func(t *testing.T) {
			b := atWindowStart(t)
			b.push("large", b.some("m", 5000)...)
			b.push("small", b.some("m", 900)...)
			b.push("third", b.some("m", 900)...)
			b.fill(c.percent)
			wantFull := 0.0
			try := func(id tenant.ID, known bool) string {
				name := "new"
				if known {
					name = "m"
				}
				out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: id, Entries: b.some(name, 1)})
				switch {
				case errors.Is(err, ErrFull) && !strings.Contains(err.Error(), "large"):
					return full
				case err != nil:
					t.Fatal(err)
				case out.Samples == 1:
					return yes
				}
				return out.Rejections[0].Reason
			}
			for _, w := range []struct {
				id    tenant.ID
				known bool
				want  string
			}{{"small", false, c.small}, {"nobody", false, c.nobody}, {"large", false, c.large}, {"large", true, c.knownOfLarge}, {"small", true, c.knownOfSmall}, {"third", true, c.knownOfSmall}} {
				if got := try(w.id, w.known); got != w.want {
					t.Errorf("%s, existing series %v: %s, want %s", w.id, w.known, got, w.want)
				}
				if w.want == full {
					wantFull++
				}
			}
			if n := testutil.ToFloat64(b.ing.metrics.fullRequests); n != wantFull {
				t.Errorf("%g requests are counted as rejected, want %g", n, wantFull)
			}
		})
	}
}

// TestRestOfTheRequestIsAccepted checks that existing series in a request with rejected
// ones are accepted, and that the outcome has the rejected entries.
func TestRestOfTheRequestIsAccepted(t *testing.T) {
	b := atWindowStart(t)
	b.push("a", b.some("m", 100)...)
	b.fill(89)
	out := b.push("a", slices.Concat(b.some("new", 3), b.some("m", 100), b.some("other", 2))...)
	if out.Samples != 100 || reasons(out)["instance_memory"] != 5 || out.Created != nil {
		t.Errorf("outcome %+v, want 100 samples accepted and 5 rejected for memory", out)
	}
	var entries []int
	for _, e := range out.Entries {
		entries = append(entries, e.Entry)
	}
	if !slices.Equal(entries, []int{0, 1, 2, 103, 104}) {
		t.Errorf("rejected entries %v, want 0, 1, 2, 103 and 104", entries)
	}
}

// TestReservedSeries checks that series removed early count as active and may return until
// they would have been removed anyway, regardless of limit and memory, and that
// they count as new afterwards.
func TestReservedSeries(t *testing.T) {
	b := atWindowStart(t)
	b.lim.MaxActiveSeries = 1000
	b.push("a", b.some("m", 1000)...)
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	packs := b.ing.packCount()
	b.fill(85)
	b.tick(4 * time.Minute)
	if n := b.ing.seriesCount(); n != 1000 {
		t.Fatalf("%d series after four minutes, want 1000", n)
	}
	b.tick(3 * time.Minute)
	if n, active := b.ing.seriesCount(), b.ing.SeriesCount("a"); n != 0 || active != 1000 || b.ing.packCount() != packs {
		t.Fatalf("%d series and %d active ones after seven minutes under pressure, %d more packs; want 0, 1000 and 0", n, active, b.ing.packCount()-packs)
	}
	if s := b.ing.Stats(); len(s.Tenants) != 1 || s.Tenants[0].Series != 1000 {
		t.Errorf("tenants in the status: %+v, want one with 1000 series", s.Tenants)
	}
	if out := b.push("a", b.some("new", 5)...); reasons(out)["max_active_series"] != 5 {
		t.Errorf("new series while others are reserved: %+v", out)
	}
	b.fill(89) // with reserved series only
	if out := b.push("a", b.some("m", 10)...); out.Samples != 10 || out.Created != nil {
		t.Errorf("reserved series: %+v", out)
	}
	if n, active := b.ing.seriesCount(), b.ing.SeriesCount("a"); n != 10 || active != 1000 {
		t.Errorf("%d series and %d active ones, want 10 and 1000", n, active)
	}
	b.ing.counted(t)
	b.ing.opts.MemoryBytes = 0
	b.tick(22 * time.Minute) // 29 in total
	if n := b.ing.SeriesCount("a"); n != 1000 {
		t.Errorf("%d active series after 29 minutes, want 1000", n)
	}
	b.set(b.now.Add(2 * time.Minute)) // expired, but not swept yet
	if out := b.push("a", b.some("m", 20)[10:]...); out.Samples != 10 || len(out.Created) != 10 {
		t.Errorf("series whose reservation expired: %+v", out)
	}
	b.tick(2 * time.Minute)
	if n := b.ing.SeriesCount("a"); n != 20 {
		t.Errorf("%d active series after half an hour, want 20", n)
	}
	if out := b.push("a", b.some("new", 900)...); out.Samples != 900 {
		t.Errorf("new series after half an hour: %+v", out)
	}
	b.ing.counted(t)
}

// TestEarlySealsPace checks that early seals for memory have a minimum interval,
// which doubles while they free too little.
func TestEarlySealsPace(t *testing.T) {
	for _, c := range []struct {
		pressed bool
		misses  int
		want    time.Duration
	}{{false, 0, 2 * time.Minute}, {true, 0, 30 * time.Second}, {false, 1, 4 * time.Minute}, {true, 3, 4 * time.Minute}, {false, 3, 16 * time.Minute},
		{false, 4, 30 * time.Minute}, {true, 6, 30 * time.Minute}, {true, 1000, 30 * time.Minute}} {
		if got := (&earlySeals{misses: c.misses}).interval(c.pressed); got != c.want {
			t.Errorf("interval(%v) after %d misses = %s, want %s", c.pressed, c.misses, got, c.want)
		}
	}
	// grow pushes samples that fill the head as fast as seals can empty it. It returns
	// the number of early seals.
	grow := func(b *bench, minutes int) (seals int) {
		b.t.Helper()
		last := b.ing.early.memory
		for range minutes * 6 {
			b.set(b.now.Add(tickEvery))
			e := entry(metric("late"), f(b.now.UnixMilli(), 1))
			for i := range 2000 {
				e.Samples = append(e.Samples, f(b.now.UnixMilli()-int64(i), float64(i*i)/7))
			}
			for i := range 8 {
				e.Labels = metric("late", "i", fmt.Sprint(i))
				e.Hash = e.Labels.Hash()
				_, _ = b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{e}})
			}
			_ = b.ing.sealDue()
			if b.ing.early.memory != last {
				last = b.ing.early.memory
				seals++
			}
		}
		return seals
	}
	t.Run("above 90%", func(t *testing.T) {
		b := atWindowStart(t)
		b.ing.opts.MemoryBytes = 200_000
		if n := grow(b, 5); n < 2 || n > 10 {
			t.Errorf("%d early seals in five minutes, want 2 to 10", n)
		}
	})
	t.Run("seals that free nothing", func(t *testing.T) {
		b := atWindowStart(t)
		b.ing.opts.MemoryBytes = 100_000
		dir := b.ing.packs.dir
		b.ing.packs.dir = filepath.Join(b.dir, "sealed.json", "no directory")
		if n := grow(b, 60); n != 6 || b.ing.early.misses != 6 { // after 0, 1, 3, 7, 15 and 31 minutes
			t.Errorf("%d early seals in an hour, %d misses, want 6", n, b.ing.early.misses)
		}
		b.ing.packs.dir = dir
		if n := grow(b, 31); n == 0 || b.ing.early.misses != 0 {
			t.Errorf("%d early seals after they work again, %d misses, want 0 misses", n, b.ing.early.misses)
		}
	})
	t.Run("a seal that frees less than half of the expected bytes", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 500)...)
		chunks := int64(500 * (openBytes + freshBytes))
		for _, c := range []struct {
			expected int64
			misses   int
		}{{3 * chunks, 1}, {1 << 40, 2}, {chunks, 0}, {3 * chunks, 1}} {
			b.push("a", b.some("m", 500)...)
			if err := b.ing.sealForMemory(b.now, c.expected); err != nil || b.ing.early.misses != c.misses {
				t.Errorf("expected %d bytes: %d misses, want %d; error %v", c.expected, b.ing.early.misses, c.misses, err)
			}
			b.set(b.now.Add(time.Second))
		}
	})
	t.Run("all series are active", func(t *testing.T) {
		b := atWindowStart(t)
		b.push("a", b.some("m", 3000)...)
		b.fill(85)
		for range 30 {
			b.push("a", b.some("m", 3000)...)
			b.tick(tickEvery)
		}
		if n := b.ing.packCount(); n > 2 {
			t.Errorf("%d packs in five minutes, want at most 2", n)
		}
	})
}

// TestReplayBeyondTheBudget checks that all acknowledged samples are replayed, even
// beyond the budget.
func TestReplayBeyondTheBudget(t *testing.T) {
	b := atWindowStart(t)
	b.push("a", b.some("m", 2000)...)
	b.push("b", b.some("m", 500)...)
	b.memory = b.ing.account.bytes.Load() / 3
	b.crash()
	b.still()
	b.ing.counted(t)
	if n, m := len(b.read("a")), len(b.read("b")); n != 2000 || m != 500 {
		t.Fatalf("%d and %d series after a replay, want 2000 and 500", n, m)
	}
	if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "b", Entries: b.some("m", 1)}); !errors.Is(err, ErrFull) {
		t.Fatalf("push into a head of three times its budget: %v", err)
	}
	b.tick(6 * time.Minute)
	if out := b.push("b", b.some("m", 1)...); out.Samples != 1 {
		t.Errorf("push after series were removed early: %+v", out)
	}
	if n := len(b.read("a")); n != 2000 {
		t.Errorf("%d series are left, want 2000", n)
	}
}
