package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	chaos "github.com/palliumhq/pallium/test/chaos/cluster"
	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// many is a cluster with proxies in front of the services that may fail.
type many struct {
	t     *testing.T
	ctx   context.Context
	c     *cluster.Cluster
	proxy map[string]*chaos.Proxy
}

func newMany(t *testing.T) *many {
	t.Helper()
	redis := os.Getenv("REDIS_SERVER")
	if redis == "" {
		redis = "redis-server"
	}
	m := &many{t: t, ctx: context.Background(), proxy: map[string]*chaos.Proxy{}}
	if at, ok := lastMoment(t); ok {
		var cancel context.CancelFunc
		m.ctx, cancel = context.WithDeadline(m.ctx, at)
		t.Cleanup(cancel)
	}
	dir := t.TempDir()
	guard(t, dir)
	var err error
	m.c, err = cluster.New(cluster.Options{Dir: dir, Free: true, TwoCompactors: true, QueriersApart: true,
		Binaries: cluster.Binaries{Pallium: programs.Binary(t, "PALLIUM"), Redis: redis,
			Bigtable: programs.Binary(t, "BIGTABLE_EMULATOR_BIN"), GCS: programs.Binary(t, "FAKE_GCS_SERVER_BIN")},
		Through: func(name, address string) string {
			if m.proxy[name] == nil {
				m.proxy[name] = chaos.NewProxy(t, "127.0.0.1", address, 1)
			}
			return m.proxy[name].Addr
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.c.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, p := range m.c.Processes {
				t.Logf("== %s\n%s", p.Name, m.c.Log(p.Name))
			}
		}
	})
	if err := m.c.Up(m.ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *many) edges() []string { return m.c.Edges }

func (m *many) command(args ...string) (string, error) { return m.c.Pallium(m.ctx, args...) }

func (m *many) flush(ctx context.Context) error { return m.admin(ctx, "backend-1", "/flush?wait=true") }

func (m *many) compact(ctx context.Context) error {
	return m.admin(ctx, "backend-2", "/compact?wait=true")
}

func (m *many) admin(ctx context.Context, name, path string) error {
	code, body, err := m.c.Admin(ctx, name, path, nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s of %s: %d %s", path, name, code, body)
	}
	return err
}

// TestCluster compares a cluster in which parts fail with the model, for less than a
// minute or for the duration in MODEL.
func TestCluster(t *testing.T) {
	m := newMany(t)
	r := newRun(t, m, slacks{clock: 6 * time.Minute, limits: 5 * time.Second}, true)
	faults := m.faults()
	for i := range faults { // about every third step is a fault; otherwise a run of minutes would have too few of each kind
		faults[i].weight *= 8
	}
	r.play(duration(t, 40*time.Second), append(common(), faults...))
}

// fault returns an operation in which something breaks and is repaired. While it is
// broken, samples are pushed, flushed and compacted, series are deleted, and queries run.
func (m *many) fault(name string, weight int, breaks, repairs func(*run)) operation {
	return operation{name, weight, func(r *run) {
		r.faulty.Store(true)
		breaks(r)
		for n, most := 10+r.gen.rnd.Intn(20), time.Now().Add(8*time.Second); n > 0 && time.Now().Before(most); n-- {
			t := r.tenant()
			switch n := r.gen.rnd.Intn(40); {
			case n < 18:
				r.push(m.ctx, t)
			case n < 37:
				r.ask(t, 1)
			case n < 38 && !r.gen.without["delete"]:
				r.deleteSeries()
			case n < 39:
				r.maintain(m.flush)
			default:
				r.maintain(m.compact)
			}
		}
		repairs(r)
		// Query before waitHealthy deletes series. A deletion makes all ingesters seal and
		// upload their samples. Later queries read these from the long-term store, and
		// would not show that an ingester misses some.
		m.recovers(r, pushesAndQueries)
		for _, t := range r.tenants {
			r.ask(t, 5)
		}
		m.waitHealthy(r)
		r.faulty.Store(false)
		for _, t := range r.tenants {
			r.ask(t, 5)
		}
	}}
}

func (m *many) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *many) ingester(r *run) string { return fmt.Sprintf("ingester-%d", 1+r.gen.rnd.Intn(3)) }

// The requests that must succeed for a cluster to count as recovered.
const (
	pushesAndQueries = false
	deletionsToo     = true
)

// waitHealthy waits until every process is ready, and pushes, queries and deletions of every
// tenant succeed through every edge.
func (m *many) waitHealthy(r *run) { m.recovers(r, deletionsToo) }

func (m *many) recovers(r *run, deletions bool) {
	for _, p := range m.c.Processes {
		m.must(m.c.WaitReady(m.ctx, p.Name))
	}
	good := 0 // consecutive successes; a gateway sends requests to the backends in turn
	for deadline := time.Now().Add(3 * time.Minute); good < 4; {
		if time.Now().After(deadline) {
			m.t.Fatalf("seed %d, step %d: the cluster did not recover: %v", r.seed, r.step, m.works(r, deletions))
		}
		if m.works(r, deletions) == nil {
			good++
			continue
		}
		good = 0
		time.Sleep(100 * time.Millisecond)
	}
}

func (m *many) works(r *run, deletions bool) error {
	for _, edge := range m.c.Edges {
		for _, t := range r.tenants {
			a := r.client.do(m.ctx, http.MethodGet, edge+"/prometheus/api/v1/query?query=count(count_over_time(%7B__name__!%3D%22%22%7D%5B15d%5D))", t.token, nil)
			if a.code != http.StatusOK {
				return fmt.Errorf("%s: %s", edge, a)
			}
			t.mu.Lock()
			samples := r.gen.samples(t, time.Now())
			t.mu.Unlock()
			if !r.repeatDeletion(t) {
				return fmt.Errorf("the deletion for tenant %s failed", t.name)
			}
			// A deletion needs every ingester; pushes and queries do not.
			if deletions {
				a = r.client.do(m.ctx, http.MethodPost, edge+"/prometheus/api/v1/admin/tsdb/delete_series?match[]=model_none", t.token, nil)
				if a.code != http.StatusNoContent {
					return fmt.Errorf("%s: delete_series: %s", edge, a)
				}
			}
			failed := r.counted("push failed")
			r.send(m.ctx, t, samples, edge, 1)
			if r.counted("push failed") > failed {
				return fmt.Errorf("a push to %s failed", edge)
			}
		}
	}
	return nil
}

// waitRecovered waits until replicas have uploaded a lost ingester's data: from then
// on another ingester may be lost.
func (m *many) waitRecovered() {
	for deadline := time.Now().Add(4 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		var ring struct{ Losses []any }
		text, err := m.c.AdminGet(m.ctx, "backend-1", "/ring")
		if err == nil && json.Unmarshal([]byte(text), &ring) == nil && len(ring.Losses) == 0 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("replicas did not upload the lost ingester's windows: %s %v", text, err)
		}
	}
}

// disturbed returns a fault of the network path to a process.
func (m *many) disturbed(name, process string, weight int, mode chaos.Mode) operation {
	set := func(mode chaos.Mode) func(*run) {
		return func(*run) {
			m.proxy[process].Set(mode)
			if process == "bigtable" {
				m.proxy["querier-bigtable"].Set(mode)
			}
		}
	}
	return m.fault(name, weight, set(mode), set(chaos.Pass))
}

// skewed returns a fault in which a process runs with its clock offset.
func (m *many) skewed(name string, weight int, pick func(*run) string, offsets ...string) operation {
	process := ""
	restart := func(wrap string) {
		m.must(m.c.Stop(m.ctx, process, syscall.SIGTERM))
		m.must(m.c.StartWith(m.ctx, process, wrap))
	}
	return m.fault(name, weight, func(r *run) {
		process = pick(r)
		wrap, err := cluster.Skewed(offsets[r.gen.rnd.Intn(len(offsets))])
		m.must(err)
		restart(wrap)
		r.maintain(m.flush)
		r.maintain(m.compact)
	}, func(*run) { restart("") })
}

func (m *many) faults() []operation {
	var name string
	kill := func(r *run) {
		name = m.ingester(r)
		m.must(m.c.Stop(m.ctx, name, syscall.SIGKILL))
	}
	start := func(*run) { m.must(m.c.Start(m.ctx, name)) }
	compactor := func(*run) string { return "compactor-1" }
	list := []operation{
		m.fault("ingester killed", 8, kill, start),
		m.fault("ingester restarted", 4, func(r *run) {
			name = m.ingester(r)
			m.must(m.c.Stop(m.ctx, name, syscall.SIGTERM))
		}, start),
		m.fault("disk lost", 4, func(r *run) { kill(r); m.must(m.c.Lose(name)) }, func(r *run) { start(r); m.waitRecovered() }),
		m.fault("ingester hangs", 2, func(r *run) {
			name = m.ingester(r)
			m.must(m.c.Signal(name, syscall.SIGSTOP))
		}, func(*run) { m.must(m.c.Signal(name, syscall.SIGCONT)) }),
		m.fault("redis emptied", 3, func(*run) { m.must(m.c.Stop(m.ctx, "redis", syscall.SIGKILL)) }, func(*run) { m.must(m.c.Start(m.ctx, "redis")) }),
		m.fault("backend killed", 3, func(r *run) {
			name = fmt.Sprintf("backend-%d", 1+r.gen.rnd.Intn(2))
			m.must(m.c.Stop(m.ctx, name, syscall.SIGKILL))
		}, start),
		m.disturbed("ingester cut off", "ingester-2", 3, chaos.Reject),
		m.disturbed("ingester breaks", "ingester-3", 3, chaos.Partial),
		m.disturbed("bigtable rejects", "bigtable", 3, chaos.Reject),
		m.disturbed("bigtable breaks", "bigtable", 2, chaos.Partial),
		m.disturbed("gcs rejects", "gcs", 3, chaos.Reject),
		m.disturbed("gcs breaks", "gcs", 2, chaos.Partial),
		m.skewed("ingester's clock", 2, m.ingester, "5m", "-5m"),
		m.skewed("compactor's clock", 3, compactor, "49h", "-49h", "200h"),
		{"from the store", 3, func(r *run) { r.fromStore(func() { m.drop(r) }) }},
		{"from a slow store", 3, m.fromSlowStore},
		{"compactors race", 4, m.race},
		{"compactor killed", 4, m.killCompactor},
	}
	return list
}

// drop deletes the local packs that are in the long-term store from every ingester,
// one ingester after the other.
func (m *many) drop(r *run) {
	r.faulty.Store(true)
	for i := range 3 {
		name := fmt.Sprintf("ingester-%d", 1+i)
		m.must(m.c.Stop(m.ctx, name, syscall.SIGTERM))
		programs.DropUploaded(m.t, filepath.Join(m.c.Dir(), name))
		m.must(m.c.Start(m.ctx, name))
	}
	m.waitHealthy(r)
	r.faulty.Store(false)
}

// fromSlowStore is fromStore with a slow path from queriers to the index, so that concurrent calls
// may reach the index in another order than they were made. Compactors publish at normal speed.
func (m *many) fromSlowStore(r *run) {
	r.fromStore(func() {
		m.drop(r)
		m.proxy["querier-bigtable"].Set(chaos.Slow)
	})
	m.proxy["querier-bigtable"].Set(chaos.Pass)
}

// race runs two compactors at once during queries.
func (m *many) race(r *run) {
	t := r.tenant()
	r.push(m.ctx, t)
	r.maintain(m.flush)
	var both sync.WaitGroup
	stop := make(chan struct{})
	for _, name := range []string{"compactor-1", "compactor-2"} {
		both.Go(func() {
			_ = m.admin(m.ctx, name, "/compact?wait=true") // one of them may lose a race
		})
	}
	var closing sync.WaitGroup
	closing.Go(func() {
		both.Wait()
		close(stop)
	})
	defer closing.Wait()
	r.askUntil(t, stop, r.seeds())
}

// killCompactor kills the compactor at a random time during a compaction.
func (m *many) killCompactor(r *run) {
	r.maintain(m.flush)
	var compaction sync.WaitGroup
	compaction.Go(func() {
		_ = m.admin(m.ctx, "compactor-1", "/compact?wait=true") // the compactor is killed
	})
	time.Sleep(time.Duration(r.gen.rnd.Intn(150)) * time.Millisecond)
	m.must(m.c.Stop(m.ctx, "compactor-1", syscall.SIGKILL))
	r.ask(r.tenant(), 5)
	m.must(m.c.Start(m.ctx, "compactor-1"))
	compaction.Wait()
}
