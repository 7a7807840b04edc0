// Package memory attacks a process that has little memory with the requests that once crashed a
// process with 4 GiB, while the good tenant sends ordinary requests.
package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// run is one process under attack.
type run struct {
	t        testing.TB
	p        *programs.Pallium
	edge     string
	attacker string // the attacker's key
	good     string
	last     time.Time // of the attacker's newest sample
	client   *http.Client
	bombBody []byte
	limit    int64

	mu    sync.Mutex
	times []time.Duration // durations of the good tenant's requests
	wrong []string        // wrong responses to the good tenant
}

// TestMemoryAttacks checks that each attack, once and many times at once, is rejected with a clear
// error or gets a right response, that the process stays within its limit, that the good tenant,
// which sends one query and one push at a time, always gets the right response, and that in the end
// all memory is released. MEMORY_LIMIT is the limit in MiB (default 2048).
func TestMemoryAttacks(t *testing.T) {
	limit := limitOf(t)
	config := fmt.Sprintf("memory: {limit_bytes: %d}\n", limit)
	group := cgroup(t, limit)
	if group != "" {
		config = "" // the process must detect the limit
	}
	p := programs.StartPallium(t, config)
	r := newRun(t, p, limit)
	if !strings.Contains(p.Log(), fmt.Sprintf("limit_bytes=%d", limit)) {
		t.Errorf("the process did not detect its limit of %d bytes: %s", limit, p.Log())
	}
	r.fill()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); r.work(stop) }()
attacks:
	for _, a := range attacks() {
		for _, n := range []int{1, a.many} {
			r.attack(a, n)
			if t.Failed() {
				break attacks
			}
		}
	}
	close(stop)
	<-done
	r.report()
	// The last regular expressions may still be matching a value.
	kit.Eventually(t, 2*time.Minute, func() error {
		if held := r.metric("pallium_memory_requests_bytes"); held != 0 {
			return fmt.Errorf("%g bytes are not released yet", held)
		}
		return nil
	})
	if group != "" {
		t.Logf("control group: maximal memory used %s", read(group+"/memory.max_usage_in_bytes"))
	}
}

// limitOf returns the process's memory limit in bytes.
func limitOf(t testing.TB) int64 {
	s := os.Getenv("MEMORY_LIMIT")
	if s == "" {
		return 2048 << 20
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 20
}

// newRun creates the two tenants.
func newRun(t testing.TB, p *programs.Pallium, limit int64) *run {
	r := &run{t: t, p: p, edge: p.Edge, limit: limit, last: time.Now().Truncate(time.Second), bombBody: bombBody(),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}, Timeout: 5 * time.Minute}}
	p.Tenant("attacker")
	r.attacker = p.Token("attacker", "metrics:read,metrics:write,metrics:delete")
	r.good = p.Tenant("good")
	return r
}

// fill writes the attacker's series.
func (r *run) fill() {
	slow := &prompb.WriteRequest{}
	for i := range 40 {
		slow.Timeseries = append(slow.Timeseries, prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: r.last.UnixMilli(), Value: 1}},
			Labels: []prompb.Label{{Name: "__name__", Value: "slow"}, {Name: "pad", Value: strings.Repeat("a", 4080) + fmt.Sprint(i)}}})
	}
	r.pushAll(slow)
	pad := strings.Repeat("p", 20)
	for from := 0; from < attackSeries; from += 500 {
		req := &prompb.WriteRequest{}
		for i := from; i < from+500; i++ {
			ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "i", Value: fmt.Sprint(i)},
				{Name: "k", Value: fmt.Sprint(i % 10)}, {Name: "pad", Value: pad}}}
			for k := range attackPoints {
				at := r.last.Add(-time.Duration(attackPoints-1-k) * 15 * time.Second)
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(k) + float64(i)/attackSeries})
			}
			req.Timeseries = append(req.Timeseries, ts)
		}
		r.pushAll(req)
	}
}

// pushAll retries a push until it is accepted.
func (r *run) pushAll(req *prompb.WriteRequest) {
	data, err := req.Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	kit.UntilSlow(r.t, 5*time.Minute, "a push is accepted", func() bool {
		code, text := programs.Do(r.t, http.MethodPost, r.edge+"/api/v1/push", r.attacker, "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, data)))
		if code != http.StatusNoContent && code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable {
			r.t.Fatalf("push: %d %s", code, text)
		}
		return code == http.StatusNoContent
	})
}

// attack sends n concurrent requests of an attack and checks every response.
func (r *run) attack(a attack, n int) {
	codes := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	start := time.Now()
	for range n {
		all.Go(func() {
			rep := a.do(r)
			err := r.judge(a, rep)
			mu.Lock()
			defer mu.Unlock()
			codes[rep.code]++
			if err != nil {
				r.t.Errorf("%s, %d at once: %v", a.name, n, err)
			}
		})
	}
	all.Wait()
	rss, peak := r.memory()
	r.t.Logf("%-40s %3d at once: %v in %s; resident %d MiB, maximum %d MiB", a.name, n, codes, time.Since(start).Round(time.Millisecond), rss>>20, peak>>20)
	if peak > r.limit {
		r.t.Errorf("%s, %d at once: resident memory reached %d bytes, limit %d", a.name, n, peak, r.limit)
	}
}

// judge returns an error if a response is wrong.
func (r *run) judge(a attack, rep reply) error {
	switch {
	case rep.err != nil:
		return rep.err
	case rep.code == http.StatusOK && a.right != nil:
		return a.right(rep.body)
	case rep.code == http.StatusBadRequest, rep.code == http.StatusRequestEntityTooLarge, rep.code == http.StatusUnprocessableEntity,
		rep.code == http.StatusTooManyRequests, rep.code == http.StatusServiceUnavailable:
		if len(rep.body) < 20 {
			return fmt.Errorf("status %d has only the text %q", rep.code, rep.body)
		}
		return nil
	}
	return fmt.Errorf("status %d: %.200s", rep.code, rep.body)
}

func (r *run) send(req *http.Request) reply {
	req.Header.Set("Authorization", "Bearer "+r.attacker)
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{code: resp.StatusCode, body: string(body), err: err}
}

// work sends the good tenant's requests: one push and one query at a time.
func (r *run) work(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		now := time.Now().UnixMilli()
		data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "g"}},
			Samples: []prompb.Sample{{Timestamp: now, Value: float64(i)}}}}}).Marshal()
		if err != nil {
			panic(err)
		}
		r.timed(http.StatusNoContent, "", func() (*http.Request, error) {
			return http.NewRequest(http.MethodPost, r.edge+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
		})
		r.timed(http.StatusOK, fmt.Sprintf(`"%d"]`, i), func() (*http.Request, error) {
			return http.NewRequest(http.MethodGet, r.edge+"/prometheus/api/v1/query?"+url.Values{"query": {"g"}, "time": {fmt.Sprintf("%.3f", float64(now)/1000)}}.Encode(), nil)
		})
	}
}

// timed sends one request of the good tenant and records its duration and whether the
// response was right.
func (r *run) timed(code int, want string, make func() (*http.Request, error)) {
	req, err := make()
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.good)
	start := time.Now()
	resp, err := r.client.Do(req)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	took := time.Since(start)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times = append(r.times, took)
	if err != nil {
		r.wrong = append(r.wrong, err.Error())
	} else if resp.StatusCode != code || !strings.Contains(string(body), want) {
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %d %.200s, want %d with %s", req.URL.Path, resp.StatusCode, body, code, want))
	}
}

func (r *run) report() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.wrong[:min(len(r.wrong), 5)] {
		r.t.Errorf("the good tenant: %s", w)
	}
	slices.Sort(r.times)
	if n := len(r.times); n > 0 {
		r.t.Logf("the good tenant: %d requests, %d without the right response; half within %s, 99 of 100 within %s, all within %s",
			n, len(r.wrong), r.times[n/2], r.times[n*99/100], r.times[n-1])
	}
}

// memory returns the process's resident memory in bytes, current and maximal. Both exclude the
// files that are mapped now, because the system can reclaim their memory.
func (r *run) memory() (now, most int64) {
	status := read(fmt.Sprintf("/proc/%d/status", r.p.Pid()))
	field := func(name string) int64 {
		_, rest, _ := strings.Cut(status, name+":")
		var kb int64
		_, _ = fmt.Sscanf(rest, "%d", &kb)
		return kb << 10
	}
	return field("RssAnon"), field("VmHWM") - field("RssFile")
}

func (r *run) metric(name string) float64 {
	resp, err := http.Get(r.p.Admin + "/metrics")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	v, ok := programs.MetricIn(r.t, string(text), name)
	if !ok {
		r.t.Fatalf("there is no metric %s", name)
	}
	return v
}

func read(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// cgroup creates a memory control group (version 1) with the limit and starts the
// test's processes in it. It returns "" if that is not possible, which is usual: then
// the limit is configured, and the test checks the resident memory.
func cgroup(t testing.TB, limit int64) string {
	dir := filepath.Join("/sys/fs/cgroup/memory", fmt.Sprintf("pallium-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return ""
	}
	t.Cleanup(func() { // after its processes have ended
		for range 100 {
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("control group %s could not be removed", dir)
	})
	if err := os.WriteFile(dir+"/memory.limit_in_bytes", []byte(strconv.FormatInt(limit, 10)), 0o600); err != nil {
		return ""
	}
	script := filepath.Join(t.TempDir(), "pallium")
	text := fmt.Sprintf("#!/bin/sh\necho $$ >%s/cgroup.procs || exit 1\nexec %s \"$@\"\n", dir, programs.Binary(t, "PALLIUM"))
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PALLIUM", script)
	return dir
}
