package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
)

// TestLittleMemory attacks a cluster, as one tenant, with requests that used to crash processes with
// 4 GiB. The ingesters have 1 GiB each, the other processes 512 MiB. The test checks that every
// attack is rejected or gets a correct response, that every process stays within its memory limit
// and in the end releases all memory of requests, and that the good tenant, which sends one push
// and one query at a time, always gets the correct response.
func TestLittleMemory(t *testing.T) {
	ctx := context.Background()
	c := startCluster(ctx, t, memoryOf)
	logAllIfFailed(t, c)
	m := &littleMemory{atLimit: atLimit{story: story{t: t, ctx: ctx, c: c}}, last: time.Now().Truncate(time.Second), most: map[string]int64{}}
	var err error
	if m.good, err = c.NewToken(ctx, "good", "metrics:read", "metrics:write"); err != nil {
		t.Fatal(err)
	}
	// Remove the rate limits: the attacks must reach the memory account.
	if out, err := c.Pallium(ctx, "limits", "set", cluster.Tenant, "samples_per_second=0", "bytes_per_second=0", "requests_per_second=0"); err != nil {
		t.Fatal(err, out)
	}
	m.pids()
	m.fillAttacker()
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { m.work(stop) })
	others.Go(func() { m.watch(stop) })
	for _, a := range m.attacks() {
		m.attack(a)
	}
	close(stop)
	others.Wait()
	m.report()
}

func memoryOf(name string) int64 {
	if strings.HasPrefix(name, "ingester") {
		return 1 << 30
	}
	return 512 << 20
}

type littleMemory struct {
	atLimit
	good string    // API key of the good tenant
	last time.Time // time of the attacker's newest sample
	pid  map[string]string

	mu    sync.Mutex
	most  map[string]int64 // largest resident memory, excluding mapped files, of each process, in bytes
	asked int              // requests of the good tenant
	wrong []string         // wrong responses to the good tenant
}

// pids finds the cluster's Pallium processes.
func (m *littleMemory) pids() {
	m.pid = map[string]string{}
	for _, p := range m.c.Processes {
		if p.Admin == "" {
			continue
		}
		pid, err := os.ReadFile(filepath.Join(m.c.Dir(), p.Name+".pid"))
		if err != nil {
			m.t.Fatal(err)
		}
		m.pid[p.Name] = strings.TrimSpace(string(pid))
	}
}

const (
	filledSeries = 10_000
	filledPoints = 40 // of each series, 15 seconds apart
)

// fillAttacker writes the attacking tenant's series.
func (m *littleMemory) fillAttacker() {
	pad := strings.Repeat("p", 20)
	for from := 0; from < filledSeries; from += 500 {
		req := prompb.WriteRequest{}
		for i := from; i < from+500; i++ {
			ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "i", Value: fmt.Sprint(i)},
				{Name: "k", Value: fmt.Sprint(i % 10)}, {Name: "pad", Value: pad}}}
			for k := range filledPoints {
				at := m.last.Add(-time.Duration(filledPoints-1-k) * 15 * time.Second)
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(k)})
			}
			req.Timeseries = append(req.Timeseries, ts)
		}
		data, err := req.Marshal()
		if err != nil {
			m.t.Fatal(err)
		}
		for code := 0; code != http.StatusNoContent; {
			rep := m.request(m.c.Token, http.MethodPost, from/500, "/api/v1/push", snappy.Encode(nil, data), "")
			if code = rep.code; code != http.StatusNoContent && code != http.StatusTooManyRequests && code != http.StatusServiceUnavailable {
				m.t.Fatalf("filling: %+v", rep)
			}
		}
	}
}

// reply is a response to a tenant.
type reply struct {
	code int
	body string
	err  error
}

// request sends a request to one of the edges.
func (m *littleMemory) request(token, method string, edge int, path string, body []byte, contentType string) reply {
	ctx, cancel := context.WithTimeout(m.ctx, 3*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.c.Edges[edge%2]+path, bytes.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{code: resp.StatusCode, body: string(text), err: err}
}

// clusterAttack is one request that is sent many times at once.
type clusterAttack struct {
	name string
	many int
	do   func(i int) reply
	// right is a text in every response of status 200; if it is empty, no response may
	// have status 200 (204 is allowed).
	right string
}

func (m *littleMemory) attacks() []clusterAttack {
	bomb := `(?:` + strings.Repeat("abcdefghij", 330) + `){1000}`
	join := `label_replace(m{k="0"},"l0","0123456789","","")`
	for i := range 6 {
		join = fmt.Sprintf(`label_join(%s,"l%d",""%s)`, join, i+1, strings.Repeat(fmt.Sprintf(`,"l%d"`, i), 10))
	}
	start, end := m.last.Add(-(filledPoints-1)*15*time.Second), m.last
	form := func(to string, params url.Values) func(int) reply {
		return func(i int) reply {
			return m.request(m.c.Token, http.MethodPost, i, "/prometheus/api/v1/"+to, []byte(params.Encode()), "application/x-www-form-urlencoded")
		}
	}
	ranged := func(query string, steps int) func(int) reply {
		return form("query_range", url.Values{"query": {query}, "start": {fmt.Sprint(start.Unix())}, "end": {fmt.Sprint(end.Unix())},
			"step": {fmt.Sprintf("%.6f", end.Sub(start).Seconds()/float64(steps-1)-1e-6)}})
	}
	read := func(n int, typ prompb.LabelMatcher_Type, name, value string) func(int) reply {
		return func(i int) reply {
			msg := &prompb.ReadRequest{}
			for range n {
				msg.Queries = append(msg.Queries, &prompb.Query{EndTimestampMs: end.UnixMilli(), Matchers: []*prompb.LabelMatcher{{Type: typ, Name: name, Value: value}}})
			}
			data, err := msg.Marshal()
			if err != nil {
				return reply{err: err}
			}
			return m.request(m.c.Token, http.MethodPost, i, "/prometheus/api/v1/read", snappy.Encode(nil, data), "")
		}
	}
	push := func(msg *prompb.WriteRequest) func(int) reply {
		data, err := msg.Marshal()
		if err != nil {
			m.t.Fatal(err)
		}
		body := snappy.Encode(nil, data)
		return func(i int) reply { return m.request(m.c.Token, http.MethodPost, i, "/api/v1/push", body, "") }
	}
	long := strings.Repeat("a", 60<<20)
	wide := &prompb.WriteRequest{} // a body with valid series only: it reaches the ingesters
	for i := range 5000 {
		wide.Timeseries = append(wide.Timeseries, prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: end.UnixMilli(), Value: 1}},
			Labels: []prompb.Label{{Name: "__name__", Value: "wide"}, {Name: "i", Value: fmt.Sprint(i)}, {Name: "pad", Value: strings.Repeat("w", 1800)}}})
	}
	return []clusterAttack{
		{"bombs of metadata", 90, push(&prompb.WriteRequest{Metadata: []prompb.MetricMetadata{{MetricFamilyName: "m", Help: long}}}), ""},
		{"bombs of a label", 90, push(&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "pad", Value: long}},
			Samples: []prompb.Sample{{Timestamp: end.UnixMilli()}}}}}), ""},
		{"bombs of good series", 90, push(wide), ""},
		{"10 million points", 10, ranged(`count(m)`, 1000), fmt.Sprintf(`"%d"]`, filledSeries)},
		{"2 million points", 10, ranged(`count(m{k=~"[0-1]"})`, 1000), fmt.Sprintf(`"%d"]`, filledSeries/5)},
		{"regex bombs", 10, form("query", url.Values{"query": {`{a=~"` + bomb + `"}`}}), ""},
		{"regex bombs in series", 10, form("series", url.Values{"match[]": {`{a=~"` + bomb + `"}`}}), ""},
		{"regex bombs in exemplars", 10, form("query_exemplars", url.Values{"query": {`{a=~"` + bomb + `"}`}}), ""},
		{"regex bombs in remote reads", 10, read(1, prompb.LabelMatcher_RE, "a", bomb), ""},
		{"nested label_join", 10, form("query", url.Values{"query": {"count(" + join + ")"}}), ""},
		{"remote reads of eight queries", 10, read(8, prompb.LabelMatcher_EQ, "__name__", "m"), " "},
		{"remote reads of a thousand queries", 10, read(1000, prompb.LabelMatcher_EQ, "__name__", "m"), ""},
	}
}

// attack sends an attack, once and then many times at once, and checks every response.
func (m *littleMemory) attack(a clusterAttack) {
	for _, n := range []int{1, a.many} {
		codes := map[int]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		start := time.Now()
		for i := range n {
			all.Go(func() {
				rep := a.do(i)
				err := a.judge(rep)
				mu.Lock()
				defer mu.Unlock()
				codes[rep.code]++
				if err != nil {
					m.t.Errorf("%s, %d at once: %v", a.name, n, err)
				}
			})
		}
		all.Wait()
		m.t.Logf("%-36s %3d at once: %v in %s", a.name, n, codes, time.Since(start).Round(time.Millisecond))
	}
}

// judge returns an error if a response is wrong.
func (a clusterAttack) judge(rep reply) error {
	switch rep.code {
	case http.StatusOK, http.StatusNoContent:
		if a.right == "" && rep.code == http.StatusOK || !strings.Contains(rep.body+" ", a.right) {
			return fmt.Errorf("status %d: %.200s", rep.code, rep.body)
		}
		return nil
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if len(rep.body) < 20 {
			return fmt.Errorf("status %d has only the text %q", rep.code, rep.body)
		}
		return rep.err
	}
	if rep.err != nil {
		return fmt.Errorf("status %d: %.200s: %w", rep.code, rep.body, rep.err)
	}
	return fmt.Errorf("status %d: %.200s", rep.code, rep.body)
}

// work sends the good tenant's requests: one push and one query at a time.
func (m *littleMemory) work(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		now := time.Now()
		data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: "g"}},
			Samples: []prompb.Sample{{Timestamp: now.UnixMilli(), Value: float64(i)}}}}}).Marshal()
		if err != nil {
			m.t.Error(err)
			return
		}
		m.expect(http.StatusNoContent, "", m.request(m.good, http.MethodPost, i, "/api/v1/push", snappy.Encode(nil, data), ""))
		query := url.Values{"query": {"g"}, "time": {fmt.Sprintf("%.3f", float64(now.UnixMilli())/1000)}}
		m.expect(http.StatusOK, fmt.Sprintf(`"%d"]`, i), m.request(m.good, http.MethodGet, i/2, "/prometheus/api/v1/query?"+query.Encode(), nil, ""))
	}
}

func (m *littleMemory) expect(code int, text string, rep reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if rep.err != nil || rep.code != code || !strings.Contains(rep.body, text) {
		m.wrong = append(m.wrong, fmt.Sprintf("%d %.200s %v, want %d with %s", rep.code, rep.body, rep.err, code, text))
	}
}

// watch samples the resident memory of each process.
func (m *littleMemory) watch(stop <-chan struct{}) {
	for {
		for name, pid := range m.pid {
			n := anonymous(pid)
			m.mu.Lock()
			m.most[name] = max(m.most[name], n)
			m.mu.Unlock()
		}
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// anonymous returns the resident memory, excluding mapped files, of a process in bytes; 0
// if the process has ended.
func anonymous(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}

func (m *littleMemory) report() {
	for _, w := range m.wrong[:min(len(m.wrong), 5)] {
		m.t.Errorf("the good tenant: %s", w)
	}
	m.t.Logf("the good tenant: %d requests, %d without the right response", m.asked, len(m.wrong))
	if m.asked < 20 {
		m.t.Errorf("the good tenant sent %d requests, want at least 20", m.asked)
	}
	for name, pid := range m.pid {
		m.t.Logf("%-12s at most %d of %d MiB", name, m.most[name]>>20, memoryOf(name)>>20)
		if m.most[name] > memoryOf(name) {
			m.t.Errorf("%s: resident memory reached %d bytes, limit %d", name, m.most[name], memoryOf(name))
		}
		if anonymous(pid) == 0 {
			m.t.Errorf("%s: the process has ended", name)
		}
		if limit := m.metric(name, "pallium_memory_requests_limit_bytes"); (limit > 0) != !strings.HasPrefix(name, "compactor") {
			m.t.Errorf("%s has a memory account of %g bytes, want one in every process except compactors", name, limit)
		}
		kit.UntilSlow(m.t, 2*time.Minute, name+" has released the memory of requests", func() bool { return m.metric(name, "pallium_memory_requests_bytes") == 0 })
	}
}
