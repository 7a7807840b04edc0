package timing

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/util/stats"
)

// HeaderName is the name of the header of Header (https://www.w3.org/TR/server-timing/).
const HeaderName = "Server-Timing"

// shown are the kinds that users see, in the order of the header. response_time and
// querier_wall_time are the names of Mimir.
var shown = [...]struct {
	kind Kind
	name string
}{
	{Queue, "queue_time"}, {Cache, "cache_time"}, {Ingesters, "ingesters_time"}, {Index, "index_time"}, {Chunks, "chunks_time"},
	{Engine, "engine_time"}, {Evaluation, "querier_wall_time"},
}

// Header returns the value of the header Server-Timing: times in milliseconds, and numbers as
// descriptions. response is the time since the request arrived. It has no entry for single
// parts, so its length is bounded.
func (r *Report) Header(response time.Duration) string {
	var b strings.Builder
	b.WriteString("response_time;dur=" + millis(response))
	for _, s := range shown {
		b.WriteString(", " + s.name + ";dur=" + millis(r.Times[s.kind]))
	}
	fmt.Fprintf(&b, `, store_reads;desc="%d", store_bytes;desc="%d"`, r.Reads, r.Bytes)
	if r.Cached+r.Evaluated > 0 {
		fmt.Fprintf(&b, `, cached_steps;desc="%d of %d"`, r.Cached, r.Cached+r.Evaluated)
	}
	if n := int64(len(r.Parts)) + r.Omitted; n > 0 {
		fmt.Fprintf(&b, `, parts;desc="%d"`, n)
	}
	return b.String()
}

// millis returns milliseconds with microseconds.
func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', -1, 64)
}

// Attrs returns the numbers of Header as attributes of a log line.
func (r *Report) Attrs() []any {
	var out []any
	for _, s := range shown {
		out = append(out, slog.Duration(s.name, r.Times[s.kind].Round(time.Microsecond)))
	}
	return append(out, slog.Int64("store_reads", r.Reads), slog.Int64("store_bytes", r.Bytes), slog.Int64("cached_steps", r.Cached),
		slog.Int64("evaluated_steps", r.Evaluated), slog.Int64("parts", int64(len(r.Parts))+r.Omitted))
}

// Stats are the statistics of a query in an answer of Prometheus' API, with those of Pallium
// under a key of their own.
type Stats struct {
	stats.BuiltinStats
	Pallium Numbers `json:"pallium"`
}

// Builtin implements stats.QueryStats.
func (s *Stats) Builtin() stats.BuiltinStats { return s.BuiltinStats }

// Numbers is a Report as JSON. Times are in seconds, as those of Prometheus.
type Numbers struct {
	Timings struct {
		Queue      float64 `json:"queueTime"`
		Cache      float64 `json:"cacheTime"`
		Ingesters  float64 `json:"ingestersTime"`
		Index      float64 `json:"indexTime"`
		Chunks     float64 `json:"chunksTime"`
		Engine     float64 `json:"engineTime"`
		Evaluation float64 `json:"querierWallTime"`
	} `json:"timings"`
	StoreReads     int64      `json:"storeReads"`
	StoreBytes     int64      `json:"storeBytes"`
	CachedSteps    int64      `json:"cachedSteps"`
	EvaluatedSteps int64      `json:"evaluatedSteps"`
	Parts          []partJSON `json:"parts,omitempty"`
	OmittedParts   int64      `json:"omittedParts,omitempty"`
}

type partJSON struct {
	Day    string `json:"day"` // of the first step, in UTC
	Start  string `json:"start"`
	End    string `json:"end"`
	Source string `json:"source"` // cache, evaluated, or shard

	Queue      float64 `json:"queueTime"`
	Evaluation float64 `json:"evaluationTime"`
}

// Stats returns the statistics of Prometheus with the numbers of the report.
func (r *Report) Stats(s *stats.Statistics) *Stats {
	out := &Stats{BuiltinStats: stats.NewQueryStats(s).Builtin()}
	t := &out.Pallium.Timings
	for kind, to := range map[Kind]*float64{Queue: &t.Queue, Cache: &t.Cache, Ingesters: &t.Ingesters, Index: &t.Index,
		Chunks: &t.Chunks, Engine: &t.Engine, Evaluation: &t.Evaluation} {
		*to = r.Times[kind].Seconds()
	}
	n := &out.Pallium
	n.StoreReads, n.StoreBytes, n.CachedSteps, n.EvaluatedSteps, n.OmittedParts = r.Reads, r.Bytes, r.Cached, r.Evaluated, r.Omitted
	parts := slices.Clone(r.Parts)
	slices.SortStableFunc(parts, func(a, b Part) int { return cmp.Compare(a.Start, b.Start) })
	for _, p := range parts {
		n.Parts = append(n.Parts, p.json())
	}
	return out
}

func (p *Part) json() partJSON {
	start, end := time.UnixMilli(p.Start).UTC(), time.UnixMilli(p.End).UTC()
	out := partJSON{Day: start.Format(time.DateOnly), Start: start.Format(time.RFC3339Nano), End: end.Format(time.RFC3339Nano),
		Source: "evaluated", Queue: p.Queue.Seconds(), Evaluation: p.Evaluation.Seconds()}
	switch {
	case p.Cached:
		out.Source = "cache"
	case p.Shard:
		out.Source = "shard"
	}
	return out
}
