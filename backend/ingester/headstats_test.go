package ingester

import (
	"testing"

	"github.com/palliumhq/pallium/backend/series"
)

// TestHeadStats checks the number and time range of a tenant's chunks in memory: open and
// closed ones, of no other tenant, and none that are sealed.
func TestHeadStats(t *testing.T) {
	b := newBench(t)
	b.still()
	check := func(what string, want series.HeadStats) {
		t.Helper()
		if got := b.ing.HeadStats("a"); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	check("nobody", series.NoHead())
	now := b.now.UnixMilli()
	b.push("b", entry(metric("up"), f(now-5000, 1)))
	check("another tenant", series.NoHead())
	b.push("a", b.some("up", 3)...)
	check("open chunks", series.HeadStats{Chunks: 3, MinTime: now, MaxTime: now})
	s := b.ing.head("a", false).all()[0]
	s.mu.Lock()
	s.in.Cut()
	s.mu.Unlock()
	check("a closed chunk", series.HeadStats{Chunks: 3, MinTime: now, MaxTime: now})
	b.push("a", entry(s.labels, f(now+1000, 1)))
	check("a closed and an open chunk of a series", series.HeadStats{Chunks: 4, MinTime: now, MaxTime: now + 1000})
	b.must(b.ing.Flush())
	check("sealed", series.NoHead())
}
