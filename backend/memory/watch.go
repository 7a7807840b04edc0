package memory

import (
	"context"
	"log/slog"
	"runtime/metrics"
	"time"
)

// Usage is the process's use of memory, in bytes.
type Usage struct {
	Live  int64 // live heap after the last garbage collection
	Total int64 // all memory that the Go runtime has from the operating system
	// Cycles is the number of completed garbage collections.
	Cycles int64
}

// ReadUsage reads the metrics of the Go runtime.
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
	// livePart and totalPart are percentages of Go's limit. A read is ended if the
	// live heap and the memory of the runtime both exceed theirs, because the garbage
	// collector has too little memory to work then.
	livePart  = 85
	totalPart = 95
	// endGap and endCycles are the minimum time and the minimum number of garbage
	// collections between two ended requests: until the memory of the first request is
	// collected, it is unknown whether ending it was enough.
	endGap    = time.Second
	endCycles = 2
	// endLeast is the percentage of Go's limit that a request must hold at least to
	// be ended.
	endLeast = 1
)

// Watch calls EndHeaviest while the process is nearly out of memory, with a pause of at
// least endGap and endCycles. It protects the process if the counted bytes of requests
// were too low an estimate. limit is Go's memory limit. Watch returns when ctx is done,
// or at once without a limit.
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
				logger.Warn("nearly out of memory: ended the largest read of the tenant whose reads hold most memory",
					"tenant", id, "held", held, "live", u.Live, "total", u.Total, "limit", limit)
			}
		}
	}
}

func scarce(u Usage, limit int64) bool {
	return u.Live > limit/100*livePart && u.Total > limit/100*totalPart
}
