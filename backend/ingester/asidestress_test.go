package ingester

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// TestAsideWhileEverythingRuns runs pushes, seals, uploads, sweeps, retries and
// reads concurrently: no read may have fewer samples than were acknowledged before
// it.
func TestAsideWhileEverythingRuns(t *testing.T) {
	b, _ := withLongTerm(t)
	b.halt()
	now := b.now.UnixMilli()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	loop := func(do func(i int64) error) {
		wg.Go(func() {
			for i := int64(0); ctx.Err() == nil; i++ {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	bad, good, moves := impossible("bad"), metric("good"), metric("moves")
	var mu sync.Mutex
	acked := 0
	push := func(i int64) error {
		at := now + i*60_000
		if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{entry(bad, f(at, 1)), entry(good, f(at, 1))}}); err != nil {
			return fmt.Errorf("push: %w", err)
		}
		// As an earlier version may have left them: the next retry moves them.
		chunks, err := series.Encode([]series.Sample{f(at, 1)})
		if err != nil {
			return err
		}
		b.ing.sealMu.Lock()
		defer b.ing.sealMu.Unlock()
		if err := b.ing.aside.keep(b.ing.asideHeader("a", moves, store.WindowOf(at), "as a test"), chunks); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		acked++
		return nil
	}
	loop(push)
	loop(func(int64) error { return b.ing.Flush() })
	loop(func(int64) error { return b.ing.Upload(context.Background()) })
	loop(func(int64) error { return b.ing.Sweep() })
	loop(func(int64) error { return b.ing.dropCompacted(context.Background()) })
	loop(func(int64) error { return b.ing.retryAside(context.Background()) })
	for range 2 {
		loop(func(int64) error {
			mu.Lock()
			want := acked
			mu.Unlock()
			got := b.read("a")
			for _, ls := range []string{bad.String(), good.String(), moves.String()} {
				if len(got[ls]) < want {
					return fmt.Errorf("%s: read %d samples, want at least the %d acknowledged ones", ls, len(got[ls]), want)
				}
			}
			names, _, err := b.ing.LabelValues(context.Background(), "__name__", series.Request{Tenant: "a", MinTime: math.MinInt64, MaxTime: math.MaxInt64})
			if err == nil && want > 0 && len(names) != 3 {
				err = fmt.Errorf("names: %v", names)
			}
			return err
		})
	}
	wg.Wait()
	if acked == 0 {
		t.Error("nothing was pushed")
	}
}
