package latency

import (
	"sync"
	"testing"
	"time"
)

func TestP95(t *testing.T) {
	var r Recent
	for i := range 99 {
		r.Add(time.Duration(i+1) * time.Millisecond)
		if d, ok := r.P95(); ok {
			t.Fatalf("p95 is %s after %d calls, want none", d, i+1)
		}
	}
	r.Add(100 * time.Millisecond)
	if d, ok := r.P95(); !ok || d != 95*time.Millisecond {
		t.Errorf("p95 of 1 to 100 ms is %s, %v", d, ok)
	}
	for range 2 * kept { // the first ones are forgotten
		r.Add(3 * time.Second)
	}
	if d, _ := r.P95(); d != 3*time.Second {
		t.Errorf("p95 is %s after %d calls of 3s", d, 2*kept)
	}
	for i := range kept {
		r.Add(map[bool]time.Duration{true: time.Minute, false: time.Second}[i%25 == 0]) // 4% are slow
	}
	if d, _ := r.P95(); d != time.Second {
		t.Errorf("p95 is %s with 4%% slow calls, want 1s", d)
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(*testing.T) {
	var r Recent
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				r.Add(time.Duration(i))
				r.P95()
			}
		})
	}
	wg.Wait()
}
