package retry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var (
	errFails     = errors.New("fails")
	errPermanent = errors.New("permanent")
)

func newReads() *Reads {
	return New(Options{Store: "s", Kinds: []string{"k"}, Registerer: prometheus.NewRegistry(),
		Permanent: func(err error) bool { return errors.Is(err, errPermanent) }})
}

// warm gives the kind a p95 of d.
func warm(r *Reads, d time.Duration) {
	for range 100 {
		r.recent["k"].Add(d)
	}
}

// do makes one read whose nth try, counted from 1, is tries(n).
func do(ctx context.Context, r *Reads, tries func(context.Context, int) error) (calls int, err error) {
	var n atomic.Int64
	_, release, err := Do(ctx, r, Read{Kind: "k", Stall: 10 * time.Second}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, tries(ctx, int(n.Add(1)))
	})
	if err == nil {
		release()
	}
	return int(n.Load()), err
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// takes returns nil after d, or earlier the error of ctx.
func takes(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestRetries(t *testing.T) {
	for name, tt := range map[string]struct {
		tries func(context.Context, int) error
		calls int
		err   error
	}{
		"succeeds":           {func(context.Context, int) error { return nil }, 1, nil},
		"fails once":         {func(_ context.Context, n int) error { return map[int]error{1: errFails}[n] }, 2, nil},
		"fails three times":  {func(_ context.Context, n int) error { return map[bool]error{true: errFails}[n < 4] }, 4, nil},
		"always fails":       {func(context.Context, int) error { return errFails }, 4, errFails},
		"permanent":          {func(context.Context, int) error { return fmt.Errorf("get: %w", errPermanent) }, 1, errPermanent},
		"permanent at last":  {func(_ context.Context, n int) error { return map[int]error{1: errFails, 2: errPermanent}[n] }, 2, errPermanent},
		"canceled elsewhere": {func(context.Context, int) error { return context.Canceled }, 1, context.Canceled},
		"adapter's timeout":  {func(_ context.Context, n int) error { return map[int]error{1: context.DeadlineExceeded}[n] }, 2, nil},
		"hangs once": {func(ctx context.Context, n int) error {
			return map[bool]func(context.Context) error{true: hang, false: ok}[n == 1](ctx)
		}, 2, nil},
		"always hangs": {func(ctx context.Context, _ int) error { return hang(ctx) }, 4, errStalled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls, err := do(t.Context(), newReads(), tt.tries)
				if calls != tt.calls || !errors.Is(err, tt.err) {
					t.Errorf("%d calls, %v; want %d, %v", calls, err, tt.calls, tt.err)
				}
			})
		})
	}
}

func ok(context.Context) error { return nil }

// TestPauses checks that pauses grow and are random, by the clock of the bubble.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 20 {
			var at [5]time.Time
			_, err := do(t.Context(), newReads(), func(_ context.Context, n int) error { at[n] = time.Now(); return errFails })
			if !errors.Is(err, errFails) {
				t.Fatal(err)
			}
			for n, longest := 2, firstPause; n <= 4; n, longest = n+1, longest*pauseFactor {
				d := at[n].Sub(at[n-1])
				if d < longest/2 || d >= longest {
					t.Errorf("pause before try %d is %s, want %s to %s", n, d, longest/2, longest)
				}
				seen[d] = true
			}
		}
		if len(seen) < 30 {
			t.Errorf("%d different pauses of 60, want at least 30", len(seen))
		}
	})
}

// TestDeadline checks that nothing is tried or waited for beyond the caller's context.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		defer cancel()
		calls, err := do(ctx, newReads(), func(_ context.Context, n int) error { return fmt.Errorf("%w in try %d", errFails, n) })
		if !errors.Is(err, errFails) || calls > 2 || !time.Now().Before(began.Add(60*time.Millisecond)) {
			t.Errorf("%d calls, %v, after %s", calls, err, time.Since(began))
		}

		began = time.Now()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		calls, err = do(ctx, newReads(), func(ctx context.Context, _ int) error { return hang(ctx) })
		if calls != 1 || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("hanging: %d calls, %v, after %s", calls, err, time.Since(began))
		}

		ctx, stop := context.WithCancel(t.Context())
		calls, err = do(ctx, newReads(), func(_ context.Context, _ int) error { stop(); return errFails })
		if calls != 1 || err == nil {
			t.Errorf("canceled: %d calls, %v", calls, err)
		}
	})
}

func TestHedges(t *testing.T) {
	const p95 = 50 * time.Millisecond
	for name, tt := range map[string]struct {
		p95    time.Duration // 0: not known
		tries  func(context.Context, int) error
		calls  int
		after  time.Duration // until the read returns
		counts map[string]float64
	}{
		"fast": {p95, func(ctx context.Context, _ int) error { return takes(ctx, p95-1) }, 1, p95 - 1, nil},
		"slow once": {p95, func(ctx context.Context, n int) error {
			return takes(ctx, map[int]time.Duration{1: time.Second, 2: time.Millisecond}[n])
		}, 2, p95 + time.Millisecond, map[string]float64{"won": 1}},
		"hangs once": {p95, func(ctx context.Context, n int) error {
			return map[bool]func(context.Context) error{true: hang, false: ok}[n == 1](ctx)
		}, 2, p95, map[string]float64{"won": 1}},
		"slow, and the hedge slower": {p95, func(ctx context.Context, _ int) error { return takes(ctx, 3*p95) }, 2, 3 * p95, map[string]float64{"lost": 1}},
		"hedge fails": {p95, func(ctx context.Context, n int) error {
			if n == 2 {
				return errFails
			}
			return takes(ctx, 2*p95-1)
		}, 2, 2*p95 - 1, map[string]float64{"failed": 1}},
		"first fails after the hedge": {p95, func(ctx context.Context, n int) error {
			if n == 1 {
				_ = takes(ctx, 2*p95)
				return errFails
			}
			return takes(ctx, 2*p95-1)
		}, 2, 3*p95 - 1, map[string]float64{"won": 1}},
		"hangs, and its hedge fails": {p95, func(ctx context.Context, n int) error {
			switch n {
			case 1:
				return hang(ctx)
			case 2:
				return errFails
			}
			return nil
		}, 3, 2 * p95, map[string]float64{"failed": 1, "won": 1}},
		"no p95 yet":  {0, func(ctx context.Context, _ int) error { return takes(ctx, time.Second) }, 1, time.Second, nil},
		"lower bound": {time.Millisecond, func(ctx context.Context, _ int) error { return takes(ctx, minHedge-1) }, 1, minHedge - 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReads()
				if tt.p95 > 0 {
					warm(r, tt.p95)
				}
				began := time.Now()
				calls, err := do(t.Context(), r, tt.tries)
				if calls != tt.calls || err != nil || time.Since(began) != tt.after {
					t.Errorf("%d calls, %v, after %s; want %d after %s", calls, err, time.Since(began), tt.calls, tt.after)
				}
				for _, result := range []string{"won", "lost", "failed", "limited"} {
					if got := testutil.ToFloat64(r.hedges.WithLabelValues("k", result)); got != tt.counts[result] {
						t.Errorf("%v hedges %s, want %v", got, result, tt.counts[result])
					}
				}
				synctest.Wait() // the loser was canceled: otherwise the bubble would not end
			})
		})
	}
}

// TestPermanentDuringHedge checks that a read does not wait for its hedge when the first try
// returns a permanent error.
func TestPermanentDuringHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReads()
		warm(r, 50*time.Millisecond)
		calls, err := do(t.Context(), r, func(ctx context.Context, n int) error {
			if n == 2 {
				return hang(ctx)
			}
			_ = takes(ctx, time.Second)
			return errPermanent
		})
		if calls != 2 || !errors.Is(err, errPermanent) {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

// TestOverload checks that a store whose reads all became slow gets at most a tenth more calls
// than reads, plus a burst.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReads()
		warm(r, 50*time.Millisecond)
		total := 0
		for range 80 { // for the first 28, only the fast reads count for the p95
			calls, err := do(t.Context(), r, func(ctx context.Context, _ int) error { return takes(ctx, time.Second) })
			if err != nil {
				t.Fatal(err)
			}
			total += calls
		}
		if most := 80 + 80/10 + hedgeBurst; total > most || total < 80+hedgeBurst {
			t.Errorf("%d calls for 80 reads, want %d to %d", total, 80+hedgeBurst, most)
		}
		if testutil.ToFloat64(r.hedges.WithLabelValues("k", "limited")) == 0 {
			t.Error("no hedge was limited")
		}
		for range 500 { // now all recent reads are slow
			if _, err := do(t.Context(), r, func(ctx context.Context, _ int) error { return takes(ctx, time.Second) }); err != nil {
				t.Fatal(err)
			}
		}
		if d, _ := r.recent["k"].P95(); d != time.Second {
			t.Errorf("p95 is %s, want 1s", d)
		}
		synctest.Wait()
	})
}

// TestRelease checks that the context of a response is not canceled before release.
func TestRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, release, err := Do(t.Context(), newReads(), Read{Kind: "k", Stall: time.Second},
			func(ctx context.Context) (context.Context, error) { return ctx, nil })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got.Err() != nil {
			t.Error("canceled before release")
		}
		if release(); got.Err() == nil {
			t.Error("not canceled by release")
		}
	})
}

// TestMetrics checks the counter of retries, by result.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReads()
		for _, tries := range []func(context.Context, int) error{
			func(_ context.Context, n int) error { return map[bool]error{true: errFails}[n < 4] },
			func(_ context.Context, n int) error { return map[int]error{1: errFails, 2: errPermanent}[n] },
		} {
			_, _ = do(t.Context(), r, tries)
		}
		want := `# HELP pallium_store_read_retries_total Retries of reads of a shared store, by result: success, failure, or permanent (an error for which a further retry is useless).
# TYPE pallium_store_read_retries_total counter
pallium_store_read_retries_total{kind="k",result="failure",store="s"} 2
pallium_store_read_retries_total{kind="k",result="permanent",store="s"} 1
pallium_store_read_retries_total{kind="k",result="success",store="s"} 1
`
		if err := testutil.CollectAndCompare(r.retries, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	})
}
