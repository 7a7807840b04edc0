package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestAtItsLimit checks that tenants at their limit keep their series while one ingester is down
// and another one has just joined, or has no memory for new series. Every push of existing series
// must be accepted; if a push also has new series, its existing series must still be accepted.
// CHAOS=long takes over 12 minutes.
func TestAtItsLimit(t *testing.T) {
	ctx := context.Background()
	c := startCluster(ctx, t, nil)
	l := &atLimit{story: story{t: t, ctx: ctx, c: c}, phase: 12 * time.Second}
	if os.Getenv("CHAOS") == "long" {
		l.phase = 4 * time.Minute
	}
	defer l.stop()
	for i := range 6 {
		l.crowd(fmt.Sprintf("crowd-%d", i))
	}
	l.rounds("all ingesters running", l.phase/4)
	l.joined()
	l.overBudget()
}

type atLimit struct {
	story
	phase   time.Duration
	ending  atomic.Bool
	writers sync.WaitGroup
	pushed  atomic.Int64

	mu    sync.Mutex
	wrong []string
}

func (l *atLimit) stop() {
	l.ending.Store(true)
	l.writers.Wait()
}

// rounds lets the writers run for some time.
func (l *atLimit) rounds(what string, span time.Duration) {
	l.t.Helper()
	before := l.pushed.Load()
	time.Sleep(span)
	n := l.pushed.Load() - before
	if n == 0 {
		l.errorf("%s: nothing was pushed", what)
	}
	l.t.Logf("%s: %d pushes in %v", what, n, span)
	if l.t.Failed() {
		for _, name := range []string{"backend-1", "ingester-1", "ingester-4"} {
			l.t.Logf("== %s\n%s", name, l.c.Log(name))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t.Fatalf("%s: wrong responses (the first %d):\n%s", what, len(l.wrong), strings.Join(l.wrong, "\n"))
	}
}

// errorf fails the test, and keeps the first texts, which are logged again at the end:
// the processes' logs may push the first copy out of the stored output.
func (l *atLimit) errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.t.Error(text)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) < 10 {
		l.wrong = append(l.wrong, time.Now().UTC().Format(time.RFC3339Nano)+" "+text)
	}
}

// joined lets the writers run while one ingester is down, and another one joins.
func (l *atLimit) joined() {
	if err := l.c.Stop(l.ctx, "ingester-3", syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	l.rounds("one ingester down", l.phase/4)
	if err := l.c.AddIngester(l.ctx, "ingester-4", "zone-b"); err != nil {
		l.t.Fatal(err)
	}
	l.rounds("one down and one joined", l.phase)
	received := l.metric("ingester-4", `pallium_ingester_handed_over_series_total{result="kept"}`)
	l.t.Logf("the new ingester has series of %v tenants, received %v series when it joined, and accepted %v retried pushes of established series",
		l.metric("ingester-4", "pallium_ingester_tenants"), received, l.repeats("ingester-4"))
	if received == 0 {
		l.errorf("the ingester that joined received no series from the others")
	}
	if err := l.c.Start(l.ctx, "ingester-3"); err != nil {
		l.t.Fatal(err)
	}
	l.rounds("all ingesters running again", l.phase/4)
}

// overBudget lets the writers run while one ingester has no memory for new series, and a second
// one, which has series that the first lacks, is down.
func (l *atLimit) overBudget() {
	l.small("ingester-4", 64<<20)
	hogs := make([]string, 4)
	for i := range hogs {
		var err error
		if hogs[i], err = l.c.NewToken(l.ctx, fmt.Sprintf("hog-%d", i), "metrics:write"); err != nil {
			l.t.Fatal(err)
		}
	}
	series := 0
	push := func(token string, n int) {
		series++
		code, _, body := l.send(token, 0, fmt.Sprintf("hog_%d_%s", series, strings.Repeat("x", 400)), n, 0)
		switch code { // with one ingester down and one full, new series are rejected, and a large tenant gets 503
		case http.StatusOK, http.StatusNoContent, http.StatusAccepted, http.StatusBadRequest, http.StatusServiceUnavailable:
		default:
			l.errorf("filling: %d %s", code, body)
		}
	}
	for _, hog := range hogs { // the first one up to its own limit, then the others up to the shared one
		for last, still := 0.0, 0; still < 3 && l.fill() < 0.88; {
			if push(hog, 500); l.fill() <= last {
				still++
			} else {
				last, still = l.fill(), 0
			}
		}
	}
	if f := l.fill(); f < 0.85 {
		l.t.Fatalf("only %.2f of the memory budget is used, want at least 0.85", f)
	}
	l.writers.Go(func() { // sealing frees memory, which new series use at once
		for !l.ending.Load() {
			push(hogs[1+series%3], 20)
			time.Sleep(500 * time.Millisecond)
		}
	})
	for i := range 6 {
		l.crowd(fmt.Sprintf("late-%d", i))
	}
	l.rounds("one over its memory budget", l.phase/4)
	before := l.repeats("ingester-4")
	if err := l.c.Stop(l.ctx, "ingester-3", syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	l.rounds("one over its memory budget and one down", l.phase)
	l.t.Logf("%.2f of the memory budget is used, the ingester accepted %v retried pushes of established series",
		l.fill(), l.repeats("ingester-4")-before)
	if l.repeats("ingester-4") == before {
		l.errorf("the ingester over its memory budget accepted no retried push of established series")
	}
}

// small restarts an ingester with less memory.
func (l *atLimit) small(name string, memory int) {
	if err := l.c.Stop(l.ctx, name, syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.c.Dir(), name+".yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	changed := strings.Replace(string(text), "memory_bytes: 536870912", fmt.Sprintf("memory_bytes: %d", memory), 1)
	if changed == string(text) {
		l.t.Fatalf("%s does not have memory_bytes: 536870912", file)
	}
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := l.c.Start(l.ctx, name); err != nil {
		l.t.Fatal(err)
	}
}

// fill returns the used fraction of the small ingester's memory budget.
func (l *atLimit) fill() float64 {
	return l.metric("ingester-4", "pallium_ingester_head_bytes") / l.metric("ingester-4", "pallium_ingester_head_limit_bytes")
}

// repeats returns how many retried pushes of established series an ingester accepted. A
// distributor retries the series that another replica has (docs/cluster.md).
func (l *atLimit) repeats(ingester string) float64 {
	sum := 0.0
	for _, name := range []string{"backend-1", "backend-2"} {
		sum += l.metric(name, fmt.Sprintf("pallium_distributor_established_pushes_total{ingester=%q,result=\"accepted\"}", ingester))
	}
	return sum
}

// metric returns the value of a series of a process's own metrics; 0 if it does not
// exist.
func (l *atLimit) metric(process, name string) float64 {
	l.t.Helper()
	_, body := l.do(l.t, http.MethodGet, l.c.Process(process).Admin+"/metrics", "", nil)
	v, _ := programs.MetricIn(l.t, body, name)
	return v
}

// crowdSeries is the limit of active series of a tenant of the crowd; each tenant
// reaches it.
const crowdSeries = 200

// crowd creates a tenant, pushes series up to its limit, and starts a writer for it.
func (l *atLimit) crowd(name string) {
	token, err := l.c.NewToken(l.ctx, name, "metrics:read", "metrics:write")
	if err != nil {
		l.t.Fatal(err)
	}
	if out, err := l.c.Pallium(l.ctx, "limits", "set", name, fmt.Sprintf("max_active_series=%d", crowdSeries)); err != nil {
		l.t.Fatal(err, out)
	}
	if code, _, body := l.send(token, 0, "", 0, crowdSeries); code/100 != 2 {
		l.t.Fatalf("%s: %d %s", name, code, body)
	}
	fresh, limited := 0, 0
	// A process that gets a late response from the row store begins with the default
	// limits and reads them again after a second, so one rejection does not prove that
	// every process has this tenant's limits. Both edges must reject for longer than
	// that.
	kit.UntilSlow(l.t, 2*time.Minute, "the limit applies", func() bool {
		fresh++
		code, _, _ := l.send(token, fresh, fmt.Sprintf("fresh_%d", fresh), 1, 0)
		if limited++; code != http.StatusBadRequest {
			limited = 0
		}
		return limited >= 30 // rejections in a row, 100 ms apart: 3 s
	})
	l.writers.Go(func() {
		for n := 0; !l.ending.Load() && !l.t.Failed(); n++ {
			// Only some of the series: new series must reach an ingester before all existing
			// ones do.
			code, _, body := l.send(token, n, "", 0, crowdSeries/4)
			if code/100 != 2 {
				l.errorf("%s: existing series: %d %s", name, code, body)
			}
			fresh++
			code, written, body := l.send(token, n, fmt.Sprintf("fresh_%d", fresh), 20, crowdSeries)
			limited := strings.Contains(body, "max_active_series") || strings.Contains(body, "instance_memory")
			if code != http.StatusBadRequest || written != crowdSeries || !limited {
				l.errorf("%s: existing and new series: %d, %d written, %s", name, code, written, body)
			}
			l.pushed.Add(2)
			time.Sleep(300 * time.Millisecond)
		}
	})
}

// send pushes `fresh` series called name, followed by the first `known` existing series.
// It returns the status code, the number of written samples that the response states, and
// the text.
func (l *atLimit) send(token string, edge int, name string, fresh, known int) (code, written int, text string) {
	req := prompb.WriteRequest{}
	now := time.Now().UnixMilli()
	add := func(name string, n int) {
		for i := range n {
			labels := []prompb.Label{{Name: "__name__", Value: name}, {Name: "i", Value: fmt.Sprint(i)}}
			samples := []prompb.Sample{{Timestamp: now, Value: float64(i)}}
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: labels, Samples: samples})
		}
	}
	add(name, fresh)
	add("known", known)
	data, err := req.Marshal()
	if err != nil {
		return 0, 0, err.Error()
	}
	url, packed := l.c.Edges[edge%2]+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, data))
	post, err := http.NewRequestWithContext(l.ctx, http.MethodPost, url, packed)
	if err != nil {
		return 0, 0, err.Error()
	}
	post.Header.Set("Authorization", "Bearer "+token)
	post.Header.Set("Content-Encoding", "snappy")
	post.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(post)
	if err != nil {
		return 0, 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0, err.Error()
	}
	return resp.StatusCode, kit.Written(1, resp.StatusCode, resp.Header, string(body), fresh+known), string(body)
}
