package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// world is a cluster under load.
type world struct {
	t     *testing.T
	ctx   context.Context
	c     *cluster.Cluster
	r     *Recorder
	rnd   *rand.Rand
	long  bool
	start time.Time
	proxy map[string]*Proxy
	ns    *cluster.Namespace // for one ingester, in the long run

	checks sync.WaitGroup
	stop   context.CancelFunc

	mu     sync.Mutex
	failed []string // errors of the last few failed queries
}

// fault is a disturbance of a cluster. Its function `do` returns after the disturbance has been undone.
type fault struct {
	name string
	// noFailures means that neither a push nor a query may fail.
	noFailures bool
	namespaced bool // needs an ingester in a network namespace, which only the long run has
	do         func(w *world)
}

func newWorld(t *testing.T, seed int64, long bool) *world {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &world{t: t, ctx: ctx, stop: stop, rnd: rand.New(rand.NewSource(seed)), long: long, proxy: map[string]*Proxy{}, start: time.Now()}
	dir := t.TempDir()
	var err error
	if long {
		w.ns = newNamespace(t)
	}
	w.c, err = cluster.New(cluster.Options{
		Dir: dir, Free: true, Binaries: binaries(t), TwoCompactors: true, Namespace: w.ns,
		Through: func(name, address string) string {
			if w.ns != nil && name == w.ns.Ingester {
				return address // the other processes are reached without a proxy
			}
			if w.proxy[name] == nil {
				ip := "127.0.0.1"
				if strings.HasPrefix(name, "inside-") {
					ip = hostIP
				}
				w.proxy[name] = NewProxy(t, ip, address, seed)
			}
			return w.proxy[name].Addr
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.c.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range w.c.Processes {
				t.Logf("== %s\n%s", p.Name, w.c.Log(p.Name))
			}
		}
	})
	if err := w.c.Up(ctx); err != nil {
		t.Fatal(err)
	}
	w.r = NewRecorder(w.c.Edges, w.c.Token, 50*time.Millisecond)
	for i := range 2 {
		w.checks.Go(func() { w.keepChecking(ctx, i) })
	}
	return w
}

func binaries(t *testing.T) cluster.Binaries {
	redis := os.Getenv("REDIS_SERVER")
	if redis == "" {
		redis = "redis-server"
	}
	return cluster.Binaries{Pallium: programs.Binary(t, "PALLIUM"), Redis: redis,
		Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")}
}

// keepChecking repeatedly reads back the last half minute.
func (w *world) keepChecking(ctx context.Context, n int) {
	for i := n; ctx.Err() == nil; i++ {
		err := w.r.Check(ctx, w.t, w.c.Edges[i%len(w.c.Edges)], i%writers, time.Now().Add(-30*time.Second))
		if err != nil && ctx.Err() == nil {
			w.mu.Lock()
			w.failed = append(w.failed[max(0, len(w.failed)-3):], err.Error())
			w.mu.Unlock()
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pause(short, long time.Duration) {
	if w.long {
		short = long
	}
	time.Sleep(short)
}

// proxied returns an ingester that other processes reach through a proxy.
func (w *world) proxied() string {
	for {
		if name := w.ingester(); w.proxy[name] != nil {
			return name
		}
	}
}

func (w *world) frontend(i int) string { return fmt.Sprintf("frontend-%d", 1+i%2) }

func (w *world) ingester() string { return fmt.Sprintf("ingester-%d", 1+w.rnd.Intn(3)) }

// waitHealthy waits until every ingester is ready, and a second longer.
func (w *world) waitHealthy() {
	w.t.Helper()
	for _, name := range []string{"ingester-1", "ingester-2", "ingester-3"} {
		w.must(w.c.WaitReady(w.ctx, name))
	}
	time.Sleep(time.Second) // connections are retried once or twice within this time
}

// checkAll reads back everything since the start.
func (w *world) checkAll() {
	w.t.Helper()
	for n := range writers {
		var err error
		for range 60 {
			if err = w.r.Check(w.ctx, w.t, w.c.Edges[n%2], n, w.start); err == nil {
				break
			}
			time.Sleep(time.Second)
		}
		w.must(err)
	}
}

// command runs an operator's command, and repeats it while it fails.
func (w *world) command(name, path string) {
	w.t.Helper()
	var code int
	var body string
	var err error
	for range 60 {
		if code, body, err = w.c.Admin(w.ctx, name, path, nil); err == nil && code == 200 {
			return
		}
		time.Sleep(time.Second)
	}
	w.t.Fatalf("%s of %s: %d %s %v", path, name, code, body, err)
}

func (w *world) flush()   { w.command("backend-1", "/flush?wait=true") }
func (w *world) compact() { w.command("backend-2", "/compact?wait=true") }

// rotateSecret replaces the cluster's secret as docs/cluster-trust.md describes: the
// new one is added as the second secret everywhere, then the two are swapped
// everywhere, and then the old one is removed.
func (w *world) rotateSecret() {
	w.t.Helper()
	path := filepath.Join(w.c.Dir(), "cluster-secret")
	data, err := os.ReadFile(path)
	w.must(err)
	before, after := strings.TrimSpace(string(data)), fmt.Sprintf("%064x", w.rnd.Int63())
	for _, list := range []string{before + "\n" + after, after + "\n" + before, after} {
		w.must(os.WriteFile(path, []byte(list+"\n"), 0o600))
		for _, p := range w.c.Processes {
			switch p.Name {
			case "redis", "bigtable", "gcs":
				continue
			}
			w.must(w.c.Stop(w.ctx, p.Name, syscall.SIGTERM))
			w.must(w.c.Start(w.ctx, p.Name))
			w.waitHealthy()
		}
	}
}

func (w *world) disturb(name string, m Mode, d time.Duration) {
	w.t.Logf("   %s %s for %v", name, m, d)
	for _, n := range []string{name, "inside-" + name} {
		if p := w.proxy[n]; p != nil {
			p.Set(m)
			defer p.Set(Pass)
		}
	}
	time.Sleep(d)
}

func faults() []fault {
	return []fault{
		{name: "kill an ingester", noFailures: true, do: func(w *world) {
			name := w.ingester()
			w.must(w.c.Stop(w.ctx, name, syscall.SIGKILL))
			w.pause(2*time.Second, 10*time.Second)
			w.must(w.c.Start(w.ctx, name))
		}},
		{name: "kill an ingester and lose its disk", noFailures: true, do: func(w *world) {
			name := w.ingester()
			w.must(w.c.Stop(w.ctx, name, syscall.SIGKILL))
			w.must(w.c.Lose(name))
			w.pause(2*time.Second, 10*time.Second)
			w.must(w.c.Start(w.ctx, name))
			w.waitHealthy()
			w.checkAll()
			w.waitRecovered()
		}},
		{name: "restart all in turn", noFailures: true, do: func(w *world) {
			for _, name := range []string{"ingester-1", "ingester-2", "ingester-3", "compactor-1", "backend-1", "backend-2", "frontend-1", "frontend-2"} {
				w.must(w.c.Stop(w.ctx, name, syscall.SIGTERM))
				w.must(w.c.Start(w.ctx, name))
				w.waitHealthy()
			}
		}},
		{name: "query frontends killed in turn", noFailures: true, do: func(w *world) {
			for i := range w.count(4, 20) {
				name := w.frontend(i)
				w.must(w.c.Stop(w.ctx, name, syscall.SIGKILL))
				w.pause(time.Second, 5*time.Second)
				w.must(w.c.Start(w.ctx, name))
				w.pause(time.Second, 5*time.Second)
			}
		}},
		{name: "a query frontend's process stopped", noFailures: true, do: func(w *world) {
			name := w.frontend(w.rnd.Int())
			w.must(w.c.Signal(name, syscall.SIGSTOP))
			w.pause(8*time.Second, 40*time.Second)
			w.must(w.c.Signal(name, syscall.SIGCONT))
			w.pause(time.Second, 5*time.Second)
		}},
		{name: "a query frontend's connections hang", noFailures: true, do: func(w *world) {
			w.disturb(w.frontend(w.rnd.Int()), Hang, w.length(8*time.Second, 40*time.Second))
		}},
		{name: "a query frontend's connections break", do: func(w *world) {
			w.disturb(w.frontend(w.rnd.Int()), Partial, w.length(5*time.Second, time.Minute))
		}},
		{name: "cluster secret rotated", do: func(w *world) { w.rotateSecret() }}, // gateways restart, too
		{name: "Redis restarted empty", noFailures: true, do: func(w *world) {
			w.must(w.c.Stop(w.ctx, "redis", syscall.SIGKILL))
			w.pause(8*time.Second, 2*time.Minute)
			w.must(w.c.Start(w.ctx, "redis"))
			w.pause(5*time.Second, 20*time.Second)
		}},
		{name: "Redis hangs", noFailures: true, do: func(w *world) { w.disturb("redis", Hang, w.length(4*time.Second, time.Minute)) }},
		{name: "an ingester cut off", noFailures: true, do: func(w *world) { w.disturb(w.proxied(), Reject, w.length(3*time.Second, 30*time.Second)) }},
		{name: "an ingester's process stopped", noFailures: true, do: func(w *world) {
			name := w.ingester()
			w.must(w.c.Signal(name, syscall.SIGSTOP))
			w.pause(12*time.Second, 40*time.Second)
			w.must(w.c.Signal(name, syscall.SIGCONT))
			w.pause(time.Second, 5*time.Second)
		}},
		{name: "an ingester cut off one way", noFailures: true, do: func(w *world) { w.disturb(w.proxied(), OneWay, w.length(12*time.Second, 40*time.Second)) }},
		{name: "an ingester's connections hang", noFailures: true, do: func(w *world) { w.disturb(w.proxied(), Hang, w.length(12*time.Second, 40*time.Second)) }},
		{name: "an ingester's connections break", do: func(w *world) { w.disturb(w.proxied(), Partial, w.length(5*time.Second, time.Minute)) }},
		{name: "an ingester's network down", noFailures: true, namespaced: true, do: func(w *world) {
			run(w.t, "ip", "link", "set", hostLink, "down")
			w.pause(0, time.Minute)
			run(w.t, "ip", "link", "set", hostLink, "up")
			w.pause(0, 10*time.Second)
		}},
		{name: "an ingester receives and cannot send", noFailures: true, namespaced: true, do: func(w *world) {
			run(w.t, "ip", "-n", w.ns.Name, "route", "add", "blackhole", hostIP+"/32")
			w.pause(0, time.Minute)
			run(w.t, "ip", "-n", w.ns.Name, "route", "del", "blackhole", hostIP+"/32")
			w.pause(0, 10*time.Second)
		}},
		{name: "an ingester sends and cannot receive", noFailures: true, namespaced: true, do: func(w *world) {
			run(w.t, "ip", "route", "add", "blackhole", w.ns.IP+"/32")
			w.pause(0, time.Minute)
			run(w.t, "ip", "route", "del", "blackhole", w.ns.IP+"/32")
			w.pause(0, 10*time.Second)
		}},
		{name: "Cloud Storage rejects", do: func(w *world) { w.store("gcs", Reject) }},
		{name: "Cloud Storage hangs", do: func(w *world) { w.store("gcs", Hang) }},
		{name: "Cloud Storage fails partially", do: func(w *world) { w.store("gcs", Partial) }},
		{name: "Bigtable rejects", do: func(w *world) { w.store("bigtable", Reject) }},
		{name: "Bigtable hangs", do: func(w *world) { w.store("bigtable", Hang) }},
		{name: "Bigtable fails partially", do: func(w *world) { w.store("bigtable", Partial) }},
		{name: "an ingester's disk is full", noFailures: true, do: func(w *world) {
			name := w.ingester()
			w.must(w.c.Stop(w.ctx, name, syscall.SIGTERM))
			w.must(w.c.StartWith(w.ctx, name, "prlimit --fsize=65536 --"))
			w.pause(4*time.Second, 30*time.Second)
			w.must(w.c.Stop(w.ctx, name, syscall.SIGKILL))
			w.must(w.c.Start(w.ctx, name))
		}},
		{name: "an ingester's clock five minutes off", noFailures: true, do: func(w *world) {
			name := w.ingester()
			offset := []string{"5m", "-5m"}[w.rnd.Intn(2)]
			w.must(w.c.Stop(w.ctx, name, syscall.SIGTERM))
			wrap, err := cluster.Skewed(offset)
			w.must(err)
			w.must(w.c.StartWith(w.ctx, name, wrap))
			w.waitHealthy()
			w.flush()
			w.pause(4*time.Second, 30*time.Second)
			w.must(w.c.Stop(w.ctx, name, syscall.SIGTERM))
			w.must(w.c.Start(w.ctx, name))
		}},
		{name: "two compactors at once", noFailures: true, do: func(w *world) {
			w.flush()
			var both sync.WaitGroup
			for _, name := range []string{"compactor-1", "compactor-2"} {
				both.Go(func() {
					for range w.count(2, 8) {
						_, _, _ = w.c.Admin(w.ctx, name, "/compact?wait=true", nil) // one of them may lose a race
					}
				})
			}
			both.Wait()
			w.compact()
		}},
		{name: "compactions killed", noFailures: true, do: func(w *world) {
			for range w.count(3, 20) {
				w.flush()
				go func() { _, _, _ = w.c.Admin(w.ctx, "compactor-1", "/compact?wait=true", nil) }()
				time.Sleep(time.Duration(w.rnd.Intn(150)) * time.Millisecond)
				w.must(w.c.Stop(w.ctx, "compactor-1", syscall.SIGKILL))
				w.must(w.c.Start(w.ctx, "compactor-1"))
			}
			w.compact()
		}},
		{name: "flushes killed", noFailures: true, do: func(w *world) {
			for range w.count(3, 20) {
				name := w.ingester()
				go func() { _, _, _ = w.c.Admin(w.ctx, name, "/flush?wait=true", nil) }()
				time.Sleep(time.Duration(w.rnd.Intn(100)) * time.Millisecond)
				w.must(w.c.Stop(w.ctx, name, syscall.SIGKILL))
				w.must(w.c.Start(w.ctx, name))
				w.waitHealthy()
			}
		}},
	}
}

func (w *world) length(short, long time.Duration) time.Duration {
	if w.long {
		return long
	}
	return short
}

func (w *world) count(short, long int) int {
	if w.long {
		return long
	}
	return short
}

// store breaks one of the two stores while the cluster uses it.
func (w *world) store(name string, m Mode) {
	d := w.length(6*time.Second, time.Duration(minutes())*time.Minute)
	go func() { _, _, _ = w.c.Admin(w.ctx, "ingester-1", "/flush?wait=true", nil) }()
	w.disturb(name, m, d)
	w.flush()
}

// waitRecovered waits until the cluster knows that replicas have uploaded a lost ingester's pending
// windows. After that, another ingester may be lost.
func (w *world) waitRecovered() {
	w.t.Helper()
	for range 200 {
		var ring struct{ Losses []any }
		text, err := w.c.AdminGet(w.ctx, "backend-1", "/ring")
		w.must(err)
		w.must(json.Unmarshal([]byte(text), &ring))
		if len(ring.Losses) == 0 {
			// Backends use their cached state for five more seconds. If the next fault cuts
			// off an ingester in this time, queries that wait for its answer fail.
			time.Sleep(6 * time.Second)
			return
		}
		time.Sleep(time.Second)
	}
	w.t.Fatal("replicas have not uploaded the lost ingester's windows after 200 checks, one second apart")
}

// oneCopy checks that three replicas with gaps were merged into one copy: the long-term store
// has at least as many samples as were acknowledged, and at most as many as were sent.
func (w *world) oneCopy() {
	w.t.Helper()
	out, err := w.c.Verify(w.ctx, "-data", "-tenant", cluster.Tenant)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	var tenants, days, packs, bytes, series, samples int
	line := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
	if _, err := fmt.Sscanf(line, "%d tenants, %d days, %d packs with %d bytes, %d series, %d samples", &tenants, &days, &packs, &bytes, &series, &samples); err != nil {
		w.t.Fatalf("%q: %v", line, err)
	}
	if samples < w.r.Acked() || samples > w.r.Attempted() || series != writers*perWriter*days {
		w.t.Errorf("compacted packs have %d samples of %d series in %d days; %d samples were acknowledged, %d sent", samples, series, days, w.r.Acked(), w.r.Attempted())
	}
	w.t.Logf("compacted: %s", strings.TrimSpace(line))
}

// minutes returns for how many minutes the long run breaks a store: CHAOS_MINUTES, or
// ten.
func minutes() int {
	if n, err := strconv.Atoi(os.Getenv("CHAOS_MINUTES")); err == nil {
		return n
	}
	return 10
}

// TestChaos checks that no acknowledged sample is lost, and that no response is wrong, while parts
// of a cluster fail one after the other. CHAOS_SEED is the seed, CHAOS=long makes every fault last long, CHAOS_FAULTS
// selects faults by name.
func TestChaos(t *testing.T) {
	seed := int64(1)
	if n, err := strconv.ParseInt(os.Getenv("CHAOS_SEED"), 10, 64); err == nil {
		seed = n
	}
	long := os.Getenv("CHAOS") == "long"
	t.Logf("CHAOS_SEED=%d", seed)
	w := newWorld(t, seed, long)
	time.Sleep(3 * time.Second)
	list := faults()
	w.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, f := range list {
		if f.namespaced && w.ns == nil {
			continue
		}
		if only := os.Getenv("CHAOS_FAULTS"); only != "" && !strings.Contains(only, f.name) {
			continue
		}
		before := w.r.tally()
		begun := time.Now()
		f.do(w)
		w.waitHealthy()
		w.checkAll()
		got := w.r.tally().since(before)
		t.Logf("%-38s %5.1fs  %s", f.name, time.Since(begun).Seconds(), got)
		if f.noFailures && (got.failed > 0 || got.queriesNo > 0) {
			w.r.mu.Lock()
			w.mu.Lock()
			t.Errorf("%s: %s; pushes %q, queries %q", f.name, got, w.r.errs, w.failed)
			w.mu.Unlock()
			w.r.mu.Unlock()
		}
		if t.Failed() {
			break
		}
	}
	w.r.Stop()
	w.stop()
	w.checks.Wait()
	w.ctx = context.Background()
	w.checkAll()
	w.flush()
	w.compact()
	w.checkAll()
	w.oneCopy()
	t.Logf("%d samples sent, %d acknowledged, none lost; in total %s", w.r.Attempted(), w.r.Acked(), w.r.tally())
}
