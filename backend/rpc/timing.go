package rpc

import (
	"time"

	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/backend/wire"
)

func encodeTiming(r *timing.Report) *wire.EvaluationTiming {
	out := &wire.EvaluationTiming{Reads: r.Reads, Bytes: r.Bytes, Cached: r.Cached, Evaluated: r.Evaluated, Omitted: r.Omitted}
	for _, t := range r.Times {
		out.Times = append(out.Times, int64(t))
	}
	for _, p := range r.Parts {
		out.Parts = append(out.Parts, wire.EvaluationTimedPart{Start: p.Start, End: p.End, Cached: p.Cached, Shard: p.Shard,
			Queue: int64(p.Queue), Evaluation: int64(p.Evaluation)})
	}
	return out
}

// decodeTiming returns the timing report of another process. The index of a time is its kind; times of
// kinds that this version does not know are ignored. `in` is nil if the process has an older version.
func decodeTiming(in *wire.EvaluationTiming) timing.Report {
	if in == nil {
		return timing.Report{}
	}
	out := timing.Report{Reads: in.Reads, Bytes: in.Bytes, Cached: in.Cached, Evaluated: in.Evaluated, Omitted: in.Omitted}
	for k := range min(len(in.Times), len(out.Times)) {
		out.Times[k] = time.Duration(in.Times[k])
	}
	for _, p := range in.Parts {
		out.Parts = append(out.Parts, timing.Part{Start: p.Start, End: p.End, Cached: p.Cached, Shard: p.Shard,
			Queue: time.Duration(p.Queue), Evaluation: time.Duration(p.Evaluation)})
	}
	return out
}
