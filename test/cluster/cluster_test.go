package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestCluster tests what a cluster promises in addition to not losing samples, which
// the chaos test covers: a real Prometheus writes to the cluster and reads from it,
// gateways agree on credentials and limits, and ingesters join and leave.
func TestCluster(t *testing.T) {
	ctx := context.Background()
	c := startCluster(ctx, t, nil)
	logAllIfFailed(t, c)
	s := &story{t: t, ctx: ctx, c: c}
	t.Run("prometheus", s.prometheus)
	t.Run("revocation", s.revocation)
	t.Run("limits", s.limits)
	t.Run("strangers", s.strangers)
	t.Run("operator", s.operator)
	t.Run("zones", s.zones)
	t.Run("tenants", s.tenants)
	t.Run("deletion", s.deletion)
	t.Run("scale in", s.scaleIn)
	t.Run("aside", s.aside)
	t.Run("forget", s.forget)
}

type story struct {
	t   *testing.T
	ctx context.Context
	c   *cluster.Cluster
}

func (s *story) do(t *testing.T, method, u, token string, body []byte, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

func (s *story) write(t *testing.T, edge, token, metric string, n int, at time.Time) (int, string) {
	t.Helper()
	req := prompb.WriteRequest{}
	for i := range n {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: metric}, {Name: "i", Value: fmt.Sprint(i)}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: float64(i)}}})
	}
	data, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, http.MethodPost, edge+"/api/v1/push", token, snappy.Encode(nil, data), "Content-Encoding", "snappy", "Content-Type", "application/x-protobuf")
}

// value evaluates an expression with one result.
func (s *story) value(t *testing.T, edge, token, expr string) float64 {
	t.Helper()
	code, body := s.do(t, http.MethodGet, edge+"/prometheus/api/v1/query?query="+url.QueryEscape(expr), token, nil)
	var a struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil || code != 200 {
		t.Fatalf("%s: %d %s", expr, code, body)
	}
	if len(a.Data.Result) != 1 {
		return math.NaN()
	}
	var v float64
	_, _ = fmt.Sscan(fmt.Sprint(a.Data.Result[0].Value[1]), &v)
	return v
}

// prometheus lets a real Prometheus scrape the cluster and write through one gateway,
// and queries the other one.
func (s *story) prometheus(t *testing.T) {
	dir := t.TempDir()
	var targets []string
	for _, p := range s.c.Processes {
		if p.Admin != "" {
			targets = append(targets, fmt.Sprintf("%q", strings.TrimPrefix(p.Admin, "http://")))
		}
	}
	config := fmt.Sprintf(`global: {scrape_interval: 1s}
scrape_configs: [{job_name: pallium, static_configs: [{targets: [%s]}]}]
remote_write: [{url: "%s/api/v1/push", authorization: {credentials: "%s"}, queue_config: {batch_send_deadline: 1s, retry_on_http_429: true}}]
`, strings.Join(targets, ","), s.c.Edges[0], s.c.Token)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := kit.FreeAddr(t)
	programs.Start(t, programs.Binary(t, "PROMETHEUS"), "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	kit.UntilSlow(t, 2*time.Minute, "every process is up in the cluster", func() bool {
		return s.value(t, s.c.Edges[1], s.c.Token, `sum(up{job="pallium"})`) == float64(len(targets))
	})
	at := time.Now().Add(-3 * time.Second).Unix()
	kit.UntilSlow(t, 2*time.Minute, "the cluster has the samples of Prometheus", func() bool {
		for _, q := range []string{"count({__name__=~\".+\"})", "sum by (job) (rate(process_cpu_seconds_total[10s]))", "sort(go_goroutines)"} {
			path := fmt.Sprintf("/api/v1/query?query=%s&time=%d", url.QueryEscape(q), at)
			code1, mine := s.do(t, http.MethodGet, s.c.Edges[1]+"/prometheus"+path, s.c.Token, nil)
			code2, theirs := s.do(t, http.MethodGet, "http://"+addr+path, "", nil)
			if code1 != 200 || code2 != 200 || mine != theirs {
				at++
				return false
			}
		}
		return true
	})
}

// revocation checks that every gateway soon rejects a revoked key.
func (s *story) revocation(t *testing.T) {
	for range 3 {
		key, err := s.c.NewToken(s.ctx, "revoked", "metrics:read")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range s.c.Edges {
			if code, body := s.do(t, http.MethodGet, e+"/prometheus/api/v1/labels", key, nil); code != 200 {
				t.Fatalf("a valid key: %d %s", code, body)
			}
		}
		list, err := s.c.Pallium(s.ctx, "token", "list", "-tenant", "revoked", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var tokens struct {
			Items []struct {
				ID        string     `json:"id"`
				RevokedAt *time.Time `json:"revokedAt"`
			} `json:"items"`
		}
		if err := json.Unmarshal([]byte(list), &tokens); err != nil {
			t.Fatalf("%v: %s", err, list)
		}
		for _, tok := range tokens.Items {
			if tok.RevokedAt == nil || tok.RevokedAt.IsZero() {
				if _, err := s.c.Pallium(s.ctx, "token", "revoke", "-yes", tok.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		since := time.Now()
		for _, e := range s.c.Edges {
			kit.UntilSlow(t, 2*time.Minute, "the key is rejected", func() bool {
				code, _ := s.do(t, http.MethodGet, e+"/prometheus/api/v1/labels", key, nil)
				return code == 401
			})
		}
		t.Logf("every gateway rejected the key after %v", time.Since(since).Round(time.Millisecond))
	}
}

// limits checks that a rate limit applies to both gateways together.
func (s *story) limits(t *testing.T) {
	key, err := s.c.NewToken(s.ctx, "limited", "metrics:read")
	if err != nil {
		t.Fatal(err)
	}
	const rate, burst = 40, 40
	if out, err := s.c.Pallium(s.ctx, "limits", "set", "limited", fmt.Sprintf("requests_per_second=%d", rate), fmt.Sprintf("request_burst=%d", burst)); err != nil {
		t.Fatal(err, out)
	}
	for _, e := range s.c.Edges { // gateways apply the limit within a second
		kit.UntilSlow(t, 2*time.Minute, "the limit applies", func() bool {
			_, body := s.do(t, http.MethodGet, e+"/api/v1/user_limits", key, nil)
			if strings.Contains(body, fmt.Sprint(rate)) {
				return true
			}
			for range 3 * burst {
				if code, _ := s.do(t, http.MethodGet, e+"/prometheus/api/v1/labels", key, nil); code == 429 {
					return true
				}
			}
			return false
		})
	}
	time.Sleep(2 * time.Second)
	var admitted, rejected atomic.Int64
	var text atomic.Value
	begun := time.Now()
	const span = 8 * time.Second
	var all sync.WaitGroup
	for i, e := range s.c.Edges {
		for range 3 - 2*i { // three times the demand at the first gateway
			all.Go(func() {
				for time.Since(begun) < span {
					switch code, body := s.do(t, http.MethodGet, e+"/prometheus/api/v1/labels", key, nil); code {
					case 200:
						admitted.Add(1)
					case 429:
						rejected.Add(1)
						text.Store(body)
					default:
						t.Errorf("query: %d %s", code, body)
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
	}
	all.Wait()
	seconds := time.Since(begun).Seconds()
	most := rate*seconds + burst + rate*1.0 // allows for one interval of delay
	t.Logf("%d admitted and %d rejected in %.1f s; the limit is %d/s with a burst of %d", admitted.Load(), rejected.Load(), seconds, rate, burst)
	if n := float64(admitted.Load()); n > most || n < 0.6*rate*seconds {
		t.Errorf("%.0f requests were admitted, want %.0f to %.0f", n, 0.6*rate*seconds, most)
	}
	if body, _ := text.Load().(string); !strings.Contains(body, "40 requests/s") || !strings.Contains(body, "2 gateways") {
		t.Errorf("rejected with %q", body)
	}
}

// strangers checks that a client without the cluster's secret cannot use the internal listener.
func (s *story) strangers(t *testing.T) {
	file, err := os.ReadFile(strings.TrimSuffix(s.c.Dir(), "/") + "/gateway-1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(file), `urls: ["`)
	internal, _, _ := strings.Cut(rest, `"`)
	for _, path := range []string{"/prometheus/api/v1/labels", "/api/v1/push", "/internal/operator/flush", "/internal/operator/ring", "/admin/v1/ring"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			req, err := http.NewRequestWithContext(t.Context(), method, internal+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+s.c.Token)
			req.Header.Set("X-Scope-OrgID", cluster.Tenant)
			req.Header.Set("X-Pallium-Policy", "unrestricted")
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				t.Errorf("%s %s without a proof: status %d", method, path, resp.StatusCode)
			}
		}
	}
}

// operator checks that any gateway accepts an operator's commands and shows all processes, that
// other processes reject the commands, and that backends have neither the admin token nor the
// pepper.
func (s *story) operator(t *testing.T) {
	if code, body := s.write(t, s.c.Edges[0], s.c.Token, "shown", 1, time.Now()); code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
	for _, g := range []string{"gateway-1", "gateway-2"} {
		page, err := s.c.Page(s.ctx, g)
		for _, want := range []string{"Ingester ingester-1", "Ingester ingester-3", "compactor-1", "zone-b", "ACTIVE", "<td>demo</td>"} {
			if err != nil || !strings.Contains(page, want) {
				t.Errorf("%s does not show %q: %v", g, want, err)
			}
		}
	}
	for _, c := range []struct {
		name, path string
		code       int
		says       string
	}{
		{"gateway-2", "/flush?wait=true&instance=ingester-2", 200, `"done"`},
		{"gateway-2", "/flush?wait=true", 200, `"done"`},
		{"gateway-1", "/flush", 202, "started"},
		{"gateway-1", "/compact?wait=true&instance=compactor-1", 200, "published"},
		{"gateway-1", "/compact?wait=true&expire=all", 200, "published"},
		{"gateway-1", "/compact/accept-loss?day=1", 404, "no samples of day 1 are lost"},
		{"gateway-1", "/flush?instance=compactor-1", 400, "role ingester"},
		{"gateway-1", "/flush?instance=nobody", 404, "not in the ring"},
		{"gateway-1", "/flush?everything=true", 400, `"invalid_request"`},
		{"gateway-1", "/ring/leave?instance=backend-1", 400, "role ingester"},
		{"gateway-1", "/ring/leave", 400, "instance is missing"},
		{"gateway-1", "/ring/leave?instance=ingester-1", 409, "writes need this ingester"},
		{"gateway-1", "/ring/leave?instance=ingester-1&wait=maybe", 400, "wait must be true or false"},
		{"gateway-1", "/ring/forget", 400, "instance is missing"},
		{"gateway-1", "/ring/forget?instance=nobody&force=yes", 400, "force must be true or false"},
		{"gateway-1", "/ring/forget?instance=nobody", 404, "not in the ring"},
		{"gateway-1", "/erasures/nobody", 405, "GET"},
	} {
		code, body, err := s.c.Admin(s.ctx, c.name, c.path, nil)
		if err != nil || code != c.code || !strings.Contains(body, c.says) || code >= 400 && !strings.Contains(body, `"requestId"`) {
			t.Errorf("%s of %s: %d %s %v", c.path, c.name, code, body, err)
		}
	}
	if events, err := s.c.AdminGet(s.ctx, "gateway-1", "/audit-events"); err != nil || !strings.Contains(events, "POST /admin/v1/compact/accept-loss") {
		t.Errorf("the audit log lacks the commands: %v", err)
	}
	for _, name := range []string{"ingester-1", "backend-1", "compactor-1"} {
		for path, want := range map[string]int{"/ready": 200, "/healthy": 200, "/metrics": 200, "/": 404, "/admin/v1/ring": 404, "/admin/v1/flush": 404, "/debug/pprof/": 404} {
			if code, body := s.do(t, http.MethodGet, s.c.Process(name).Admin+path, "", nil); code != want {
				t.Errorf("%s of %s: %d %s", path, name, code, body)
			}
		}
		script, err := os.ReadFile(filepath.Join(s.c.Dir(), name+".sh"))
		if err != nil || strings.Contains(string(script), "ADMIN_TOKEN") || strings.Contains(string(script), "PEPPER") {
			t.Errorf("%s has secrets that it does not need: %v", name, err)
		}
	}
}

// zones checks that a distributor reports that fewer zones than it needs have ingesters.
func (s *story) zones(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(s.c.Dir(), "backend-1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, dir := string(data), t.TempDir()
	var addr [3]string
	for i, setting := range []string{"rpc_listen", "internal_listen", "admin_listen"} {
		port, err := kit.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		addr[i] = "127.0.0.1:" + port
		text = regexp.MustCompile(setting+": .*").ReplaceAllString(text, fmt.Sprintf("%s: %q", setting, addr[i]))
	}
	text = regexp.MustCompile("data_dir: .*").ReplaceAllString(text, "data_dir: "+dir)
	text = regexp.MustCompile("advertise: .*").ReplaceAllString(text, fmt.Sprintf("advertise: %q", addr[0]))
	text = strings.Replace(text, "instance: backend-1", "instance: short\n  replication: 5", 1)
	file := filepath.Join(dir, "short.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(s.ctx, os.Getenv("PALLIUM"), "backend", "-target=distributor", "-config", file)
	cmd.Env = append(os.Environ(), "PALLIUM_CLUSTER_SECRET_FILE="+filepath.Join(s.c.Dir(), "cluster-secret"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ready, metrics string
	kit.UntilSlow(t, 2*time.Minute, "readiness reports the number of zones", func() bool {
		resp, err := http.Get("http://" + addr[2] + "/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		var code int
		code, ready = s.do(t, http.MethodGet, "http://"+addr[2]+"/ready", "", nil)
		return code == 503 && strings.Contains(ready, "3 zones have ACTIVE ingesters") && strings.Contains(ready, "5 are needed")
	})
	kit.UntilSlow(t, 2*time.Minute, "the metrics report the number of zones", func() bool {
		_, metrics = s.do(t, http.MethodGet, "http://"+addr[2]+"/metrics", "", nil)
		return strings.Contains(metrics, "pallium_distributor_zones 3") && strings.Contains(metrics, "pallium_distributor_zones_needed 5")
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if !strings.Contains(log.String(), "too few zones") {
		t.Errorf("the log does not report too few zones:\n%s", log.String())
	}
	kit.UntilSlow(t, 2*time.Minute, "the distributor is removed from the ring", func() bool {
		code, _, err := s.c.Admin(s.ctx, "gateway-1", "/ring/forget?force=true&instance=short", nil)
		return err == nil && (code == 200 || code == 404)
	})
}

// tenants checks that no tenant sees another one's data through either gateway.
func (s *story) tenants(t *testing.T) {
	b, err := s.c.NewToken(s.ctx, "other", "metrics:read", "metrics:write")
	if err != nil {
		t.Fatal(err)
	}
	if code, body := s.write(t, s.c.Edges[0], b, "mine", 10, time.Now()); code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
	for _, e := range s.c.Edges {
		if v := s.value(t, e, b, "count(mine)"); v != 10 {
			t.Errorf("the tenant has %v series, want 10", v)
		}
		if v := s.value(t, e, s.c.Token, "count(mine)"); !math.IsNaN(v) {
			t.Errorf("another tenant sees %v series, want none", v)
		}
		if code, _ := s.do(t, http.MethodGet, e+"/prometheus/api/v1/labels", s.c.Token, nil, "X-Scope-OrgID", "other"); code != 403 {
			t.Errorf("another tenant by header: %d", code)
		}
	}
}

// deletion checks that a deletion of series reaches all ingesters.
func (s *story) deletion(t *testing.T) {
	if code, body := s.write(t, s.c.Edges[0], s.c.Token, "gone", 10, time.Now()); code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
	if v := s.value(t, s.c.Edges[1], s.c.Token, "count(gone)"); v != 10 {
		t.Fatalf("before the deletion there are %v series, want 10", v)
	}
	if code, body := s.do(t, http.MethodPost, s.c.Edges[0]+`/prometheus/api/v1/admin/tsdb/delete_series?match[]=gone{i=~"[0-4]"}`, s.c.Token, nil); code != 204 {
		t.Fatalf("delete_series: %d %s", code, body)
	}
	for _, e := range s.c.Edges {
		if v := s.value(t, e, s.c.Token, "count(gone)"); v != 5 {
			t.Errorf("after the deletion there are %v series, want 5", v)
		}
	}
}

// scaleIn checks that no write fails and no sample is missing when an ingester joins and another
// one leaves.
func (s *story) scaleIn(t *testing.T) {
	stop := make(chan struct{})
	var pushed, failed atomic.Int64
	var writer sync.WaitGroup
	begun := time.Now()
	writer.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			code, body := s.write(t, s.c.Edges[n%2], s.c.Token, "scaled", 20, time.Now())
			if code/100 != 2 {
				failed.Add(1)
				t.Errorf("write during the change: %d %s", code, body)
			}
			pushed.Add(1)
		}
	})
	if err := s.c.AddIngester(s.ctx, "ingester-4", "zone-a"); err != nil {
		t.Fatal(err)
	}
	// The new ingester knows the earlier deletion, and that these samples are newer.
	if code, body := s.write(t, s.c.Edges[0], s.c.Token, "gone", 10, time.Now()); code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
	defer func() {
		if code, body, err := s.c.Admin(s.ctx, "backend-1", "/flush?wait=true", nil); err != nil || code != 200 {
			t.Errorf("flush: %d %s %v", code, body, err)
		}
		if code, body, err := s.c.Admin(s.ctx, "backend-1", "/compact?wait=true", nil); err != nil || code != 200 {
			t.Errorf("compact: %d %s %v", code, body, err)
		}
		if v := s.value(t, s.c.Edges[0], s.c.Token, "count(gone)"); v != 10 {
			t.Errorf("found %v series that were written again after their deletion", v)
		}
	}()
	kit.UntilSlow(t, 2*time.Minute, "the new ingester stores series", func() bool {
		text, err := s.c.AdminGet(s.ctx, "backend-1", "/ring")
		return err == nil && strings.Count(text, `"state":"ACTIVE"`) >= 4+3 && strings.Contains(text, `"share":0.5`)
	})
	time.Sleep(2 * time.Second)
	code, body, err := s.c.Admin(s.ctx, "ingester-1", "/ring/leave?wait=true", nil)
	if err != nil || code != 200 {
		t.Fatalf("leave: %d %s %v", code, body, err)
	}
	if err := s.c.Stop(s.ctx, "ingester-1", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	close(stop)
	writer.Wait()
	count := s.value(t, s.c.Edges[0], s.c.Token, fmt.Sprintf("sum(count_over_time(scaled[%ds]))", int(time.Since(begun).Seconds())+5))
	if int64(count) != 20*pushed.Load() {
		t.Errorf("found %v samples, %d were acknowledged", count, 20*pushed.Load())
	}
	t.Logf("%d writes, %d failed", pushed.Load(), failed.Load())
}

// aside checks that an ingester with series set aside on its disk, which no pack can hold, neither
// leaves nor is forgotten until an operator drops them.
func (s *story) aside(t *testing.T) {
	const name, drop = "ingester-3", "/aside/drop?day=20000&window=0&tenant=team-a&ingester="
	if err := s.c.Stop(s.ctx, name, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	golden := os.DirFS(filepath.Join("..", "..", "backend", "ingester", "testdata", "aside"))
	if err := os.CopyFS(filepath.Join(s.c.Dir(), name, "ingester", "aside"), golden); err != nil {
		t.Fatal(err)
	}
	if err := s.c.Start(s.ctx, name); err != nil {
		t.Fatal(err)
	}
	listed := func() string {
		text, err := s.c.AdminGet(s.ctx, "gateway-1", "/aside")
		if err != nil {
			return err.Error()
		}
		return text
	}
	kit.UntilSlow(t, 2*time.Minute, "the series set aside are recorded", func() bool { return strings.Contains(listed(), `"ingester":"ingester-3"`) })
	if code, body, err := s.c.Admin(s.ctx, name, "/ring/leave?wait=true", nil); err != nil || code != 409 || !strings.Contains(body, "aside drop") {
		t.Errorf("leave: %d %s %v", code, body, err)
	}
	if err := s.c.Stop(s.ctx, name, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.c.Lose(name); err != nil {
		t.Fatal(err)
	}
	forget := "/ring/forget?instance=" + name
	kit.UntilSlow(t, 2*time.Minute, "forget is rejected because of the series set aside", func() bool {
		code, body, err := s.c.Admin(s.ctx, "backend-1", forget, nil)
		return err == nil && code == 409 && strings.Contains(body, "team-a")
	})
	if code, body, err := s.c.Admin(s.ctx, "gateway-2", drop+"ingester-1", nil); err != nil || code != 404 {
		t.Errorf("drop on another ingester: %d %s %v", code, body, err)
	}
	if code, body, err := s.c.Admin(s.ctx, "gateway-2", drop+name, nil); err != nil || code != 200 {
		t.Fatalf("drop: %d %s %v", code, body, err)
	}
	// The ingester starts again with an empty disk: the record of its series is removed
	// together with its data.
	if err := s.c.Start(s.ctx, name); err != nil {
		t.Fatal(err)
	}
	kit.UntilSlow(t, 2*time.Minute, "no series set aside are recorded", func() bool { return strings.Contains(listed(), `"items":[]`) })
}

// forget checks that an operator can remove a permanently lost ingester from the ring, and not a
// running one.
func (s *story) forget(t *testing.T) {
	code, body, err := s.c.Admin(s.ctx, "backend-1", "/ring/forget?instance=ingester-2", nil)
	if err != nil || code != 409 {
		t.Fatalf("forget a running ingester: %d %s %v", code, body, err)
	}
	if err := s.c.AddIngester(s.ctx, "ingester-5", "zone-c"); err != nil {
		t.Fatal(err)
	}
	if code, body := s.write(t, s.c.Edges[0], s.c.Token, "kept", 50, time.Now()); code/100 != 2 {
		t.Fatalf("push: %d %s", code, body)
	}
	if err := s.c.Stop(s.ctx, "ingester-3", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.c.Lose("ingester-3"); err != nil {
		t.Fatal(err)
	}
	kit.UntilSlow(t, 2*time.Minute, "the ingester is removed from the ring", func() bool {
		code, body, err = s.c.Admin(s.ctx, "backend-2", "/ring/forget?instance=ingester-3", nil)
		return err == nil && code == 200
	})
	kit.UntilSlow(t, 2*time.Minute, "replicas have the ingester's data", func() bool {
		text, err := s.c.AdminGet(s.ctx, "backend-1", "/ring")
		return err == nil && strings.Contains(text, `"losses":[]`) && !strings.Contains(text, `"id":"ingester-3"`)
	})
	for _, e := range s.c.Edges {
		if v := s.value(t, e, s.c.Token, "count(kept)"); v != 50 {
			t.Errorf("found %v series, want 50", v)
		}
	}
}
