package frontend

import (
	"math/rand"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// written has the times of the samples that were sent (begun) and acknowledged.
type written struct {
	mu           sync.Mutex
	begun, acked []int64
}

func (s *written) note(list *[]int64, times []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*list = append(*list, times...)
}

// counts returns how many times of a list are in the interval before each step.
func (s *written) counts(list *[]int64, q query) map[int64]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[int64]int{}
	for _, t := range *list {
		if step := (t + q.step - 1) / q.step * q.step; step >= q.start && step <= q.end {
			out[step]++
		}
	}
	return out
}

// TestWriters sends FRONTEND_WRITERS_QUERIES queries (default 2000) for the number of samples while
// several clients send requests that have both current and late samples. An answer must count every sample
// that was acknowledged before the query was sent, and none that was sent after the answer arrived.
func TestWriters(t *testing.T) {
	w := newWorld(t)
	w.startSingle()
	all := &written{}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 3 {
		rnd := rand.New(rand.NewSource(w.seed + int64(i)))
		writers.Go(func() {
			used := map[int64]bool{}
			ls := labels.FromStrings("__name__", "written", "i", strconv.Itoa(i))
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rnd.Intn(100)) * time.Millisecond):
				}
				var list []point
				var times []int64
				for range 1 + rnd.Intn(3) {
					late := []int64{minute, 12 * minute, 4 * hour}[rnd.Intn(3)]
					at := virtual(t) - rnd.Int63n(late)
					if used[at] {
						continue
					}
					used[at] = true
					list, times = append(list, point{t: at, f: 1}), append(times, at)
				}
				if len(list) == 0 {
					continue
				}
				all.note(&all.begun, times)
				(&samples{series: map[string]*sampled{}}).push(t, w.edges()[:1], w.tokens, ls, list)
				all.note(&all.acked, times)
			}
		})
	}
	for i := range number("FRONTEND_WRITERS_QUERIES", 2000) {
		if t.Failed() {
			break
		}
		now := virtual(t)
		q := query{text: "sum(count_over_time(written[10m]))", step: 10 * minute}
		q.end = now - now%q.step
		q.start = q.end - []int64{hour, 5 * hour, 30 * hour}[i%3]
		least := all.counts(&all.acked, q)
		_, got := w.ask(w.edge(), w.tokens[0], q, "")
		most := all.counts(&all.begun, q)
		answered := map[int64]int{}
		for _, s := range got.Data.Result {
			for _, v := range s.Values {
				answered[int64(v[0].(float64)*1000)], _ = strconv.Atoi(v[1].(string))
			}
		}
		for step := q.start; step <= q.end; step += q.step {
			if n := answered[step]; n < least[step] || n > most[step] {
				t.Errorf("FRONTEND_SEED=%d, query %d at %s: %d samples at %s, want %d to %d", w.seed, i, seconds(now), n, seconds(step),
					least[step], most[step])
			}
		}
	}
	close(stop)
	writers.Wait()
	t.Logf("%d samples; %.0f steps from the cache, %.0f evaluated", len(all.acked),
		w.front.metric(`pallium_frontend_steps_total{source="cache"}`), w.front.metric(`pallium_frontend_steps_total{source="evaluated"}`))
}
