package memory

import (
	"context"
	"log/slog"
	"runtime/metrics"
	"time"
)

// Usage is what the process's memory is used for, in bytes.
type Usage struct {
	Live  int64 // what the last garbage collection left
	Total int64 // all that the Go runtime has from the operating system
	// Cycles is how many garbage collections there were.
	Cycles int64
}

// ReadUsage asks the Go runtime.
func ReadUsage() Usage {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(s)
	return Usage{
		Live:   int64(s[0].Value.Uint64()),
		Total:  int64(s[1].Value.Uint64()) - int64(s[2].Value.Uint64()),
		Cycles: int64(s[3].Value.Uint64()),
	}
}

const (
	watchEvery = 100 * time.Millisecond
	// A request is ended when the heap has less room than the collector needs to
	// work: what is live, and what the runtime has in all, in percent of Go's limit.
	livePart  = 85
	totalPart = 95
	// Between two requests that are ended is at least this time and so many garbage
	// collections: what the first held has to be collected before anybody knows
	// whether that was enough.
	endGap    = time.Second
	endCycles = 2
	// endLeast is the least that a request must hold to be worth ending, in percent.
	endLeast = 1
)

// Watch ends the request that holds most whenever the process is nearly out of
// memory: what requests hold is estimated, and the process must live when an
// estimate was too small. limit is Go's memory limit. It returns when ctx is done.
func (a *Account) Watch(ctx context.Context, limit int64, usage func() Usage, logger *slog.Logger) {
	if limit <= 0 {
		return
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last time.Time
	cycles := int64(-endCycles)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.Sub(last) < endGap {
				continue
			}
			u := usage()
			if !scarce(u, limit) || u.Cycles-cycles < endCycles {
				continue
			}
			last, cycles = now, u.Cycles
			if id, held := a.EndHeaviest(limit / 100 * endLeast); held > 0 {
				logger.Warn("nearly out of memory: ended the request that held most",
					"tenant", id, "held", held, "live", u.Live, "total", u.Total, "limit", limit)
			}
		}
	}
}

func scarce(u Usage, limit int64) bool {
	return u.Live > limit/100*livePart && u.Total > limit/100*totalPart
}
