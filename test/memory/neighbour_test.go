package memory

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	// neighbours is the number of concurrent requests of the attacking tenant.
	neighbours = 10
	// measured is how long each of the two cases is measured.
	measured = time.Minute
)

// BenchmarkNeighbour measures the latency of the good tenant, which sends one push and
// one query at a time, while the attacking tenant sends concurrent requests: first
// well-behaved ones, then attacks. It reports both 99th percentiles and their ratio.
func BenchmarkNeighbour(b *testing.B) {
	for b.Loop() {
		limit := limitOf(b)
		p := programs.StartPallium(b, fmt.Sprintf("memory: {limit_bytes: %d}\n", limit))
		r := newRun(b, p, limit)
		r.fill()
		calm := r.waits(func(int) { _ = r.ranged(`sum by (k) (rate(m{k="1"}[1m]))`, 200) })
		all := attacks()
		loud := r.waits(func(i int) { _ = all[i%len(all)].do(r) })
		b.ReportMetric(calm.Seconds()*1000, "calm-p99-ms")
		b.ReportMetric(loud.Seconds()*1000, "loud-p99-ms")
		b.ReportMetric(loud.Seconds()/calm.Seconds(), "ratio")
		if n := len(r.wrong); n > 0 {
			b.Errorf("%d requests of the good tenant without the right response, first: %s", n, r.wrong[0])
		}
	}
}

// waits calls `do` repeatedly in several goroutines for the attacking tenant, and returns the
// 99th percentile of the good tenant's latency.
func (r *run) waits(do func(i int)) time.Duration {
	r.times = nil
	stop, done := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for n := range neighbours {
		all.Go(func() {
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
					do(i)
				}
			}
		})
	}
	go func() { defer close(done); r.work(stop) }()
	time.Sleep(measured)
	close(stop)
	<-done
	all.Wait()
	slices.Sort(r.times)
	r.t.Logf("%d requests: half within %s, 99 of 100 within %s, all within %s", len(r.times), r.times[len(r.times)/2], r.times[len(r.times)*99/100], r.times[len(r.times)-1])
	return r.times[len(r.times)*99/100]
}
