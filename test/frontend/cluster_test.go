package frontend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// clustered is a cluster with two query frontends.
type clustered struct {
	t   *testing.T
	rnd *rand.Rand
	c   *cluster.Cluster
}

func (s *clustered) urls() []string { return s.c.Edges }

func (s *clustered) command(name, path string) {
	s.t.Helper()
	if code, text, err := s.c.Admin(s.t.Context(), name, path, nil); err != nil || code/100 != 2 {
		s.t.Fatalf("%s: %d %s, %v", path, code, text, err)
	}
}

func (s *clustered) flush()   { s.command("backend-1", "/flush") }
func (s *clustered) compact() { s.command("backend-2", "/compact?wait=true") }

func (s *clustered) restart() {
	s.t.Helper()
	all := []string{"frontend-1", "frontend-2", "backend-1", "backend-2", "ingester-1", "ingester-2", "ingester-3"}
	s.kill(all[s.rnd.Intn(len(all))])
}

// kill ends a process with SIGKILL and starts it again.
func (s *clustered) kill(name string) {
	s.t.Helper()
	if err := s.c.Stop(s.t.Context(), name, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.start(name)
}

func (s *clustered) start(name string) {
	s.t.Helper()
	if err := s.c.Start(s.t.Context(), name); err != nil {
		s.t.Fatal(err)
	}
}

func (s *clustered) cli(args ...string) {
	s.t.Helper()
	if _, err := s.c.Pallium(s.t.Context(), args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *clustered) metric(name string) (sum float64) {
	s.t.Helper()
	for _, p := range s.c.Processes {
		if p.Admin != "" {
			sum += s.of(p.Admin, name)
		}
	}
	return sum
}

// of returns a metric of one process; 0 if it has none, or is down.
func (s *clustered) of(admin, name string) float64 {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, admin+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// bucket is a proxy in front of the object store of queriers and frontends. While failing is set,
// some reads fail or hang.
type bucket struct {
	target         atomic.Pointer[httputil.ReverseProxy]
	failing        atomic.Bool
	failed, hanged atomic.Int64
	mu             sync.Mutex
	rnd            *rand.Rand
}

// ServeHTTP implements http.Handler.
func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	n := b.rnd.Intn(100)
	b.mu.Unlock()
	switch {
	case !b.failing.Load() || r.Method != http.MethodGet:
	case n < 10:
		b.failed.Add(1)
		http.Error(w, "injected", http.StatusServiceUnavailable)
		return
	case n < 11:
		b.hanged.Add(1)
		<-r.Context().Done()
		return
	}
	b.target.Load().ServeHTTP(w, r)
}

// TestInCluster checks queries through the query frontends of a cluster: while samples, limits and
// processes change, while a zone is down, while queriers are killed (FRONTEND_KILLS times, default
// 8), while reads of objects fail or hang, and while the cache in Redis is emptied, stopped, or has
// wrong values. No query may fail, and every answer must be right.
func TestInCluster(t *testing.T) {
	w := newWorld(t)
	b := &bucket{rnd: rand.New(rand.NewSource(w.seed))}
	front := httptest.NewServer(b)
	t.Cleanup(front.Close)
	cache := programs.Redis(t)
	s := w.startCluster(cluster.Options{QueriersApart: true, CacheRedis: cache.Addr, Through: func(name, address string) string {
		if name != "querier-gcs" {
			return address
		}
		b.target.Store(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: address})
			r.Out.Host = address
		}})
		return strings.TrimPrefix(front.URL, "http://")
	}})
	w.begin()
	s.flush()
	s.compact()
	t.Run("equality", func(t *testing.T) { w.t, s.t = t, t; equality(w, s) })
	t.Run("timings", func(t *testing.T) { w.t, s.t = t, t; timings(w, s) })
	t.Run("a zone is down", func(t *testing.T) { w.t, s.t = t, t; zoneDown(w, s) })
	t.Run("queriers killed", func(t *testing.T) { w.t, s.t = t, t; queriersKilled(w, s) })
	t.Run("object reads", func(t *testing.T) { w.t, s.t = t, t; objectReads(w, s, b) })
	t.Run("redis", func(t *testing.T) { w.t, s.t = t, t; redisFaults(w, s, cache) })
	w.t, s.t = t, t
}

// startCluster starts a cluster with a tenant.
func (w *world) startCluster(o cluster.Options) *clustered {
	w.t.Helper()
	binary := os.Getenv("REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	o.Dir, o.Free, o.Config = w.t.TempDir(), true, "self_monitoring: {disabled: true}\n"+shards
	o.Binaries = cluster.Binaries{Pallium: programs.Binary(w.t, "PALLIUM"), Redis: binary,
		Bigtable: programs.Binary(w.t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(w.t, "FAKE_GCS_SERVER_BIN")}
	c, err := cluster.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, t := context.Background(), w.t
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range c.Processes {
				t.Logf("== %s\n%s", p.Name, c.Log(p.Name))
			}
		}
		if err := c.Down(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	s := &clustered{t: t, rnd: w.rnd, c: c}
	w.front = s
	token, err := c.NewToken(ctx, "t", "metrics:read", "metrics:write", "metrics:delete")
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = []string{token}
	s.cli(append([]string{"limits", "set", "t"}, wide...)...)
	return s
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func equality(w *world, s *clustered) {
	n := number("FRONTEND_CLUSTER_QUERIES", 60)
	w.run(n)
	w.t.Logf("%d answers exactly equal, %d equal except for the last bits, %d errors", w.compare.exact, w.compare.near, w.compare.failed)
	if home := s.metric(`pallium_frontend_passed_queries_total{by="home"}`); home == 0 {
		w.t.Error("no query was passed to a frontend")
	}
	if s.metric("pallium_frontend_shards_total") == 0 {
		w.t.Error("no series were divided")
	}
	if w.compare.exact < n {
		w.t.Errorf("only %d answers were exactly equal, want at least %d", w.compare.exact, n)
	}
}

// zoneDown sends queries while one ingester after the other is down: answers are right, and cached
// results are used.
func zoneDown(w *world, s *clustered) {
	for _, name := range []string{"ingester-1", "ingester-2", "ingester-3"} {
		if err := s.c.Stop(w.t.Context(), name, syscall.SIGKILL); err != nil {
			w.t.Fatal(err)
		}
		// The ingester that was down before may not be connected to all processes yet.
		kit.UntilSlow(w.t, time.Minute, "queries succeed while "+name+" is down", func() bool {
			for range 10 { // all processes
				q := query{text: "sum(load)", start: w.start, end: w.now, step: 2 * hour}
				if code, _ := w.ask(w.edge(), w.tokens[0], q, "no-store"); code != http.StatusOK {
					return false
				}
			}
			return true
		})
		used := s.metric(`pallium_frontend_steps_total{source="cache"}`)
		for i := range number("FRONTEND_ZONE_QUERIES", 6) {
			q := query{text: fmt.Sprintf("sum by (job) (rate(requests_total[1h])) * %d", i%3), start: w.start + day, end: w.start + 3*day,
				step: 10 * minute}
			w.must(q, fmt.Sprintf("%s is down, query %d", name, i))
			if i%3 == 2 {
				w.backfill()
			}
		}
		kit.Until(w.t, "cached results are used while "+name+" is down", func() bool {
			w.must(query{text: "max(requests_total)", start: w.start + day, end: w.start + 2*day, step: 10 * minute}, name+" is down")
			return s.metric(`pallium_frontend_steps_total{source="cache"}`) > used
		})
		s.start(name)
	}
}

// heavy is a query whose evaluation takes a while.
func (w *world) heavy(i int) query {
	return query{text: fmt.Sprintf("max_over_time(sum by (job) (rate(requests_total[1h]))[6h:1m]) + %d", i),
		start: w.start + 2*day, end: w.now - hour, step: 10 * minute}
}

// must sends a query, which must not fail, and compares its answer.
func (w *world) must(q query, what string) {
	w.t.Helper()
	want, err := w.expect(q)
	if err != nil {
		w.t.Fatal(err)
	}
	w.same(q, want, what)
}

func (w *world) same(q query, want answer, what string) {
	w.t.Helper()
	code, got := w.ask(w.edge(), w.tokens[0], q, "")
	if code != http.StatusOK {
		w.t.Errorf("FRONTEND_SEED=%d, %s: %d %s", w.seed, what, code, got.Error)
	} else if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		e, _ := json.Marshal(want)
		at := difference(string(g), string(e))
		w.t.Errorf("FRONTEND_SEED=%d, %s: %+v\n got ...%.400s\nwant ...%.400s", w.seed, what, q, g[at:], e[at:])
	}
}

// queriersKilled kills the processes with the role querier in turns, each during the evaluation of
// a query, unless the query ends first.
func queriersKilled(w *world, s *clustered) {
	hit := 0
	for i := range number("FRONTEND_KILLS", 8) {
		q := w.heavy(i)
		want, err := w.expect(q)
		if err != nil {
			w.t.Fatal(err)
		}
		kit.UntilSlow(w.t, time.Minute, "both queriers lend their slots", func() bool {
			return s.metric("pallium_frontend_workers") >= s.metric("pallium_querier_slots")
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.same(q, want, fmt.Sprintf("kill %d", i))
		}()
		name := []string{"backend-1", "backend-2"}[i%2]
		admin := s.c.Process(name).Admin
		for running := true; running; { // until the querier runs an evaluation, or the query has ended
			select {
			case <-done:
				running = false
			default:
				if s.of(admin, "pallium_querier_running_evaluations") > 0 {
					hit++
					running = false
				}
			}
		}
		if err := s.c.Stop(w.t.Context(), name, syscall.SIGKILL); err != nil {
			w.t.Fatal(err)
		}
		<-done
		s.start(name)
		if w.t.Failed() {
			return
		}
	}
	w.t.Logf("%d queriers were killed during an evaluation, %.0f evaluations were repeated", hit,
		s.metric(`pallium_frontend_repeated_evaluations_total{reason="querier_ended"}`))
}

// objectReads sends queries while 10% of the reads of objects fail and 1% hang.
func objectReads(w *world, s *clustered, b *bucket) {
	s.flush()
	s.compact()
	for _, name := range []string{"backend-1", "backend-2", "frontend-1", "frontend-2"} {
		s.kill(name) // with their caches
	}
	b.failing.Store(true)
	defer b.failing.Store(false)
	// Caches answer most reads, so send queries until a few reads of objects have failed.
	n := number("FRONTEND_READS", 20)
	for i := 0; i < n || b.failed.Load() < 3 && i < 20*n; i++ {
		q := w.query()
		if _, err := w.expect(q); err != nil {
			continue
		}
		if !w.open(q) {
			w.must(q, fmt.Sprintf("failing reads, query %d", i))
		}
		if i%5 == 4 {
			s.kill([]string{"backend-1", "backend-2"}[i/5%2])
		}
	}
	w.t.Logf("%d reads failed, %d hung", b.failed.Load(), b.hanged.Load())
	if b.failed.Load() == 0 {
		w.t.Error("no read of an object failed")
	}
}

// redisFaults empties and stops the Redis of the cache, and replaces its values.
func redisFaults(w *world, s *clustered, server *programs.RedisServer) {
	client := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer client.Close()
	ctx := w.t.Context()
	q := query{text: "sum by (job) (rate(requests_total[1h]))", start: w.start + day - day%(10*minute), end: w.start + 3*day, step: 10 * minute}
	keys := func() []string {
		list, err := client.Keys(ctx, "pallium:results:*").Result()
		if err != nil {
			w.t.Fatal(err)
		}
		return list
	}
	forget := func() { // the results that frontends have in memory
		s.kill("frontend-1")
		s.kill("frontend-2")
	}
	w.must(q, "before")
	kit.Until(w.t, "results are in Redis", func() bool { return len(keys()) > 0 })
	lookups := func(result string) float64 {
		return s.metric(`pallium_results_cache_redis_lookups_total{result="` + result + `"}`)
	}
	forget()
	w.must(q, "from Redis")
	if lookups("hit") == 0 {
		w.t.Error("no result was read from Redis")
	}
	for name, value := range map[string]func(i int, list []string) []byte{
		"garbage": func(int, []string) []byte { return []byte("garbage") },
		"the value of another key": func(i int, list []string) []byte {
			v, err := client.Get(ctx, list[(i+1)%len(list)]).Bytes()
			if err != nil {
				w.t.Fatal(err)
			}
			return v
		},
		"a changed byte": func(i int, list []string) []byte {
			v, err := client.Get(ctx, list[i]).Bytes()
			if err != nil {
				w.t.Fatal(err)
			}
			v[len(v)/2] ^= 1
			return v
		},
	} {
		list := keys()
		values := make([][]byte, len(list))
		for i := range list {
			values[i] = value(i, list)
		}
		for i := range list {
			if err := client.Set(ctx, list[i], values[i], time.Hour).Err(); err != nil {
				w.t.Fatal(err)
			}
		}
		forget()
		w.must(q, name)
		if len(list) > 1 && lookups("invalid") == 0 {
			w.t.Errorf("%s: no value was recognized as invalid", name)
		}
		kit.Until(w.t, "results are in Redis again", func() bool { return s.metric(`pallium_results_cache_redis_puts_total{result="stored"}`) > 0 })
	}
	if err := client.FlushAll(ctx).Err(); err != nil {
		w.t.Fatal(err)
	}
	w.must(q, "emptied")
	forget()
	if err := client.FlushAll(ctx).Err(); err != nil {
		w.t.Fatal(err)
	}
	w.must(q, "emptied, and nothing in memory")
	server.Kill()
	w.must(q, "stopped")
	forget()
	for i := range 5 {
		w.must(w.heavy(1000+i), "stopped, and nothing in memory")
	}
	server.Start()
	w.must(q, "started again")
}
