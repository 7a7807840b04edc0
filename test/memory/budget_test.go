package memory

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// overBudget returns queries that need more memory than their tenant may use. They exceed the budget
// before they read samples, while they read samples, or with their result.
func overBudget() []attack {
	return []attack{
		{name: "before samples are read", do: func(r *run) reply { return r.ranged("m", 2000) }},
		{name: "while values are read", do: func(r *run) reply { return r.ranged(`count_values("v", m)`, 100) }},
		{name: "with the result", do: func(r *run) reply { return r.ranged(`m{k=~"[0-4]"}`, 60) }},
	}
}

const (
	inARow = 100
	atOnce = 20
	spare  = 8 << 20 // bytes by which the live heap may grow: caches, connections
)

// TestOverBudget checks that queries over their budget, 100 in a row and then 20 concurrent ones
// from one tenant, get 422 with the name of the limit. The budget is the tenant's max_memory_bytes,
// or half of the process's memory for requests. With the latter budget, concurrent queries may also
// get 503. The queries release their memory: afterwards the account is empty, the live heap
// has not grown, and a query within the budget is answered. MEMORY_LIMIT is the process's limit in
// MiB (default 512).
func TestOverBudget(t *testing.T) {
	limit := int64(512 << 20)
	if n := limitOf(t); n != 2048<<20 {
		limit = n
	}
	r := newRun(t, programs.StartPallium(t, fmt.Sprintf("memory: {limit_bytes: %d}\n", limit)), limit)
	r.fill()
	r.small() // also warms up what stays in memory
	base := r.released("before")
	for _, own := range []string{"25165824", ""} {
		if out, err := r.p.CLI("limits", "set", "attacker", "max_memory_bytes="+own); err != nil {
			t.Fatal(err, out)
		}
		want := "limit max_memory_bytes of " + own + " bytes exceeded"
		if own == "" {
			want = "(the limit of this process)"
		}
		kit.Eventually(t, time.Minute, func() error { // the limit applies within a second
			if rep := r.ranged("m", 2000); !strings.Contains(rep.body, want) {
				return fmt.Errorf("%d %.200s", rep.code, rep.body)
			}
			return nil
		})
		for _, a := range overBudget() {
			for range inARow {
				r.rejected(a, want)
			}
			r.near(base, r.released(fmt.Sprintf("%s, %d in a row, budget %q", a.name, inARow, own)))
			wantTogether := want
			if own == "" {
				wantTogether = "" // other queries of the tenant may use the memory
			}
			var all sync.WaitGroup
			for range atOnce {
				all.Go(func() { r.rejected(a, wantTogether) })
			}
			all.Wait()
			r.near(base, r.released(fmt.Sprintf("%s, %d at once, budget %q", a.name, atOnce, own)))
			r.small()
		}
	}
}

// small sends a query within the budget.
func (r *run) small() {
	rep := r.form("query", url.Values{"query": {`count(m{k="0"})`}, "time": {stamp(r.last)}})
	if rep.err != nil || rep.code != http.StatusOK {
		r.t.Fatalf("a query within the budget: %d %s %v", rep.code, rep.body, rep.err)
	}
}

// rejected sends a query that must be rejected because of its budget, with a text that contains
// `want`. If `want` is empty, the query may also be rejected because other queries use the memory.
func (r *run) rejected(a attack, want string) {
	rep := a.do(r)
	if rep.err == nil && want == "" && rep.code == http.StatusServiceUnavailable && strings.Contains(rep.body, "memory for requests is exhausted") {
		return
	}
	if rep.err != nil || rep.code != http.StatusUnprocessableEntity || !strings.Contains(rep.body, "limit max_memory_bytes of ") ||
		!strings.Contains(rep.body, want) || !strings.Contains(rep.body, `"errorType":"execution"`) {
		r.t.Errorf("%s: %d %.300s %v, want 422 with %q", a.name, rep.code, rep.body, rep.err, want)
	}
}

// released waits until no memory is accounted for, and returns the live heap in bytes.
func (r *run) released(when string) (live float64) {
	kit.Eventually(r.t, time.Minute, func() error {
		if held := r.metric("pallium_memory_requests_bytes"); held != 0 {
			return fmt.Errorf("%s: %g bytes are not released yet", when, held)
		}
		return nil
	})
	rss, peak := r.memory()
	r.collect()
	r.collect() // a sync.Pool, as the engine has for points, is empty only after the second one
	live = r.metric("go_memstats_heap_alloc_bytes")
	after, _ := r.memory()
	r.t.Logf("%-60s live heap %3.0f MiB; resident %d MiB, %d after a collection, maximum %d MiB", when, live/(1<<20), rss>>20, after>>20, peak>>20)
	if peak > r.limit {
		r.t.Errorf("%s: resident memory reached %d bytes, limit %d", when, peak, r.limit)
	}
	return live
}

// near checks that the live heap has not grown by more than spare.
func (r *run) near(base, live float64) {
	if live > base+spare {
		r.t.Errorf("the live heap has %.0f bytes, and had %.0f before the queries; want at most %d more", live, base, spare)
	}
}

// collect runs the process's garbage collector.
func (r *run) collect() {
	req, err := http.NewRequest(http.MethodGet, r.p.Admin+"/debug/pprof/heap?gc=1", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.p.AdminToken())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.t.Fatalf("collect garbage: status %d", resp.StatusCode)
	}
}
