package timing

import (
	"context"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/test/kit"
)

var start = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

// TestRecord checks the report of a Record to which reports of another one were added.
func TestRecord(t *testing.T) {
	c := kit.NewClock(start)
	whole := New(c.Now)
	ctx := NewContext(context.Background(), whole.Child())
	end := Of(ctx).Measure(Index)
	c.Advance(3 * time.Second)
	if took := end(); took != 3*time.Second {
		t.Errorf("took %s, want 3s", took)
	}
	Of(ctx).Add(Engine, -time.Second) // as if the clock was set back
	Of(ctx).Read(0)
	Of(ctx).Read(100)
	Of(ctx).Steps(5, 7)
	for range 2 {
		whole.Merge(Of(ctx).Report())
	}
	whole.AddPart(Part{Start: 1, End: 2})
	want := Report{Reads: 4, Bytes: 200, Cached: 10, Evaluated: 14, Parts: []Part{{Start: 1, End: 2}}}
	want.Times[Index] = 6 * time.Second
	if got := whole.Report(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestNone checks that all methods can be called on a nil Record.
func TestNone(t *testing.T) {
	r := Of(context.Background())
	if r.Child() != nil {
		t.Error("a nil Record has a child")
	}
	r.Measure(Queue)()
	r.Add(Queue, 1)
	r.Read(1)
	r.Steps(1, 1)
	r.AddPart(Part{})
	r.Merge(Report{})
	if !reflect.DeepEqual(r.Report(), Report{}) {
		t.Errorf("a nil Record reports %+v", r.Report())
	}
}

// TestBounds checks that, whatever another process sends, the report has at most maxParts parts and
// no negative numbers, and that the header is short.
func TestBounds(t *testing.T) {
	r := New(time.Now)
	bad := Report{Reads: -1, Bytes: -1, Cached: -1, Evaluated: -1, Omitted: -1, Parts: make([]Part, 3*maxParts)}
	for k := range bad.Times {
		bad.Times[k] = -time.Hour
	}
	bad.Parts[0].Queue, bad.Parts[0].Evaluation = -1, -1
	r.Merge(bad)
	want := Report{Parts: make([]Part, maxParts), Omitted: 2 * maxParts}
	got := r.Report()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d parts, %+v", len(got.Parts), got.Times)
	}
	for k := range got.Times {
		got.Times[k] = 1<<63 - 1
	}
	got.Reads, got.Bytes, got.Cached, got.Evaluated = 1<<62, 1<<62, 1<<61, 1<<61
	if h := got.Header(1<<63 - 1); len(h) > 1000 {
		t.Errorf("header of %d bytes", len(h))
	}
}

// TestRace checks that a Record can be used concurrently.
func TestRace(t *testing.T) {
	r := New(time.Now)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				own := r.Child()
				own.Add(Queue, 1)
				own.Read(1)
				r.Merge(own.Report())
				r.AddPart(Part{})
				_ = r.Report()
			}
		})
	}
	all.Wait()
	if got := r.Report(); got.Of(Queue) != 8000 || got.Reads != 8000 || int64(len(got.Parts))+got.Omitted != 8000 {
		t.Errorf("queue %d, reads %d, %d parts", got.Of(Queue), got.Reads, len(got.Parts))
	}
}

// entry is an entry of the header (https://www.w3.org/TR/server-timing/#the-server-timing-header-field).
var entry = regexp.MustCompile(`^[a-z_]+;(dur=[0-9.]+|desc="[0-9a-z ]+")$`)

// TestShown checks the header, the attributes of a log line, and the statistics of an answer.
func TestShown(t *testing.T) {
	r := Report{Reads: 2, Bytes: 300, Cached: 5, Evaluated: 7, Omitted: 1, Parts: []Part{
		{Start: start.Add(time.Hour).UnixMilli(), End: start.Add(2 * time.Hour).UnixMilli(), Queue: time.Second, Evaluation: 1500 * time.Millisecond},
		{Start: start.UnixMilli(), End: start.UnixMilli() + 1, Cached: true},
		{Start: start.Add(24 * time.Hour).UnixMilli(), End: start.Add(25 * time.Hour).UnixMilli(), Shard: true},
	}}
	for k := range r.Times {
		r.Times[k] = time.Duration(k+1) * time.Millisecond
	}
	const header = `response_time;dur=12.345, queue_time;dur=1, cache_time;dur=2, ingesters_time;dur=3, index_time;dur=4, chunks_time;dur=5, ` +
		`engine_time;dur=7, querier_wall_time;dur=8, store_reads;desc="2", store_bytes;desc="300", cached_steps;desc="5 of 12", parts;desc="4"`
	if got := r.Header(12345678 * time.Nanosecond); got != header {
		t.Errorf("header %s\nwant   %s", got, header)
	}
	for _, e := range strings.Split(header, ", ") {
		if !entry.MatchString(e) {
			t.Errorf("entry %s", e)
		}
	}
	if n := len(r.Attrs()); n != 12 {
		t.Errorf("%d attributes, want 12", n)
	}
	text, err := json.Marshal(r.Stats(&stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(false)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"timings":{"evalTotalTime":0`, `"samples":{`,
		`"pallium":{"timings":{"queueTime":0.001,"cacheTime":0.002,"ingestersTime":0.003,"indexTime":0.004,"chunksTime":0.005,"engineTime":0.007,` +
			`"querierWallTime":0.008},"storeReads":2,"storeBytes":300,"cachedSteps":5,"evaluatedSteps":7,"parts":[` +
			`{"day":"2026-11-30","start":"2026-11-30T00:00:00Z","end":"2026-11-30T00:00:00.001Z","source":"cache","queueTime":0,"evaluationTime":0},` +
			`{"day":"2026-11-30","start":"2026-11-30T01:00:00Z","end":"2026-11-30T02:00:00Z","source":"evaluated","queueTime":1,"evaluationTime":1.5},` +
			`{"day":"2026-12-01","start":"2026-12-01T00:00:00Z","end":"2026-12-01T01:00:00Z","source":"shard","queueTime":0,"evaluationTime":0}],"omittedParts":1}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s\nhas no %s", text, want)
		}
	}
}

// TestSums checks that sums of reports do not overflow.
func TestSums(t *testing.T) {
	r := New(time.Now)
	huge := Report{Reads: 1<<63 - 1, Bytes: 1<<63 - 1, Cached: 1<<63 - 1, Evaluated: 1<<63 - 1, Omitted: 1<<63 - 1}
	huge.Times[Queue] = 1<<63 - 1
	for range 3 {
		r.Merge(huge)
	}
	got := r.Report()
	if got.Of(Queue) <= 0 || got.Reads <= 0 || got.Bytes <= 0 || got.Omitted <= 0 || got.Cached+got.Evaluated <= 0 {
		t.Errorf("%+v", got)
	}
	if h := got.Header(time.Second); strings.Contains(h, "-") {
		t.Error(h)
	}
}
