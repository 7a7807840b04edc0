package memory

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// BenchmarkOtherTenant reports the 99th percentile of the latency of the good tenant, which
// sends one request at a time: while the attacker sends everything in this
// package, and while the attacker uses as much CPU time with ordinary dashboard
// queries. MEMORY_LIMIT is the limit in MiB (default 2048).
func BenchmarkOtherTenant(b *testing.B) {
	limit := limitOf(b)
	r := newRun(b, programs.StartPallium(b, fmt.Sprintf("memory: {limit_bytes: %d}\n", limit)), limit)
	r.fill()
	for b.Loop() {
		attacked := r.during(func() {
			for _, a := range attacks() {
				r.attack(a, a.many)
			}
		})
		ordinary := r.during(func() { r.ordinary(attacked.cpu, attacked.wall) })
		b.ReportMetric(attacked.p99.Seconds()*1e3, "attacked-p99-ms")
		b.ReportMetric(ordinary.p99.Seconds()*1e3, "ordinary-p99-ms")
		b.ReportMetric(float64(attacked.p99)/float64(ordinary.p99), "p99-ratio")
		b.ReportMetric(attacked.cpu/attacked.wall.Seconds(), "attacked-cpus")
		b.ReportMetric(ordinary.cpu/ordinary.wall.Seconds(), "ordinary-cpus")
	}
	if len(r.wrong) > 0 {
		b.Fatalf("the good tenant: %d requests without the right response, first %s", len(r.wrong), r.wrong[0])
	}
}

// phase contains a tenant's latencies, and the resources that the process used
// meanwhile.
type phase struct {
	p99  time.Duration
	cpu  float64 // seconds
	wall time.Duration
}

// during measures the good tenant's requests while the function `load` runs.
func (r *run) during(load func()) phase {
	r.times = nil
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { r.work(stop) })
	cpu, start := r.cpu(), time.Now()
	load()
	p := phase{cpu: r.cpu() - cpu, wall: time.Since(start)}
	close(stop)
	work.Wait()
	slices.Sort(r.times)
	p.p99 = r.times[len(r.times)*99/100]
	return p
}

// ordinary runs ten senders of dashboard queries for the time span, at a rate at which the process
// uses cpu seconds in total.
func (r *run) ordinary(cpu float64, span time.Duration) {
	used, start := r.cpu(), time.Now()
	var senders sync.WaitGroup
	for i := range 10 {
		senders.Go(func() {
			for n := i; time.Since(start) < span; n++ {
				if r.cpu()-used > cpu*float64(time.Since(start))/float64(span) {
					time.Sleep(time.Millisecond)
					continue
				}
				query := fmt.Sprintf(`sum by (k) (rate(m{k="%d"}[5m]))`, n%10)
				rep := r.form("query_range", url.Values{"query": {query}, "start": {stamp(r.last.Add(-10 * time.Minute))},
					"end": {stamp(r.last)}, "step": {"15"}})
				if rep.err != nil || rep.code != http.StatusOK {
					r.t.Errorf("%s: %d %s %v", query, rep.code, rep.body, rep.err)
					return
				}
			}
		})
	}
	senders.Wait()
}

// cpu returns the CPU time of the process in seconds.
func (r *run) cpu() float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.p.Pid()))
	if err != nil {
		r.t.Error(err)
		return 0
	}
	// The process name, in parentheses, may contain spaces; utime and stime are fields
	// 14 and 15.
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	var user, system float64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		r.t.Error(err)
	}
	return (user + system) / 100
}
