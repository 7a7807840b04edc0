package ruler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/ruler/shares"
	"github.com/palliumhq/pallium/backend/series"
)

// cluster is several rulers with shares over one row store and one database.
type cluster struct {
	t      *testing.T
	store  rows.Store
	data   *database
	source *fakeRules
	notes  *notifications
	start  time.Time
	slow   atomic.Bool // whether queries of the tenant `slow` take a minute, even if their context ends

	mu    sync.Mutex
	nodes []*node
}

// node is one process of a cluster.
type node struct {
	name   string
	ruler  *Ruler
	holder *shares.Holder
	cut    atomic.Bool // whether the node cannot reach the row store
	stuck  atomic.Bool // whether pushes wait, as in a paused process
	killed atomic.Bool
	gone   atomic.Bool // whether the ring has noticed that the node ended
	cancel context.CancelFunc
	done   chan struct{}
}

// cutRows is the row store of a node, which fails while the node is cut off.
type cutRows struct {
	rows.Store
	n *node
}

var errCut = errors.New("the row store cannot be reached")

func (c cutRows) ReadRows(ctx context.Context, r []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	if c.n.cut.Load() || c.n.killed.Load() {
		return errCut
	}
	return c.Store.ReadRows(ctx, r, f, visit)
}

func (c cutRows) CheckAndMutate(ctx context.Context, key string, cond rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if c.n.cut.Load() || c.n.killed.Load() {
		return false, errCut
	}
	return c.Store.CheckAndMutate(ctx, key, cond, then, otherwise)
}

func (c *cluster) ring(context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, n := range c.nodes {
		if !n.gone.Load() {
			out = append(out, n.name)
		}
	}
	return out, nil
}

func (c *cluster) add(name string) *node {
	n := &node{name: name, done: make(chan struct{})}
	ix, err := index.New(index.Options{Rows: cutRows{c.store, n}})
	if err != nil {
		c.t.Fatal(err)
	}
	running := func() time.Duration { return time.Since(c.start) }
	n.holder = shares.New(shares.Options{Store: ix.Shares, Count: 4, ID: fmt.Sprint(name, "/", time.Now().UnixNano()), Rulers: c.ring,
		Running: running})
	o := options(c.data, c.source, n.holder, c.notes)
	fence := shares.NewFence(ix.Shares, running)
	o.Running, o.UserError = running, nil
	query := o.Query
	o.Query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
		if id == "slow" && c.slow.Load() {
			time.Sleep(time.Minute)
		}
		return query(ctx, id, expr, at)
	}
	o.Push = func(ctx context.Context, b *series.Batch) (series.Outcome, error) {
		if n.stuck.Load() {
			for n.stuck.Load() { // even if the context ends: a paused process does not notice it
				time.Sleep(100 * time.Millisecond)
			}
		} else if err := fence.Check(ctx, b.Fence.Share, b.Fence.Number); err != nil {
			return series.Outcome{}, err
		}
		if n.killed.Load() {
			return series.Outcome{}, errInjected
		}
		return c.data.push(ctx, b)
	}
	n.ruler = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.done)
		holding, release := context.WithCancel(context.Background())
		var wait sync.WaitGroup
		wait.Go(func() { n.holder.Run(holding, n.ruler) })
		defer context.AfterFunc(ctx, n.holder.Retire)()
		n.ruler.Run(ctx)
		release()
		wait.Wait()
		if !n.killed.Load() {
			last, end := context.WithTimeout(context.Background(), 5*time.Second)
			defer end()
			n.holder.Release(last)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n
}

// stop ends a node normally.
func (n *node) stop() {
	n.cancel()
	<-n.done
	n.gone.Store(true)
}

// kill ends a node at once. The ring notices it after 30 seconds.
func (n *node) kill() {
	n.killed.Store(true)
	n.cancel()
	time.AfterFunc(30*time.Second, func() { n.gone.Store(true) })
}

// TestSlowStop checks that no slot of a tenant is lost when a ruler stops, or is killed while it stops, while an evaluation of
// another tenant cannot be interrupted.
func TestSlowStop(t *testing.T) {
	for what, kill := range map[string]bool{"stopped": false, "killed while it stops": true} {
		t.Run(what, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { slowStop(t, kill) }) })
	}
}

func slowStop(t *testing.T, kill bool) {
	store, err := memory.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := &cluster{t: t, store: store, data: newDatabase(t), source: &fakeRules{}, notes: &notifications{}, start: time.Now()}
	groups := func(metric string) (list []rulefmt.RuleGroup) {
		for i := range 12 {
			list = append(list, rulefmt.RuleGroup{Name: fmt.Sprint("g", i), Interval: seconds(2), Rules: []rulefmt.Rule{
				{Record: metric, Expr: "vector(1)", Labels: map[string]string{"group": fmt.Sprint(i)}}}})
		}
		return list
	}
	stopped := c.add("r0")
	time.Sleep(15 * time.Second)
	c.source.set(testTenant, define("ns", groups("value")...)...)
	c.source.set("slow", define("ns", groups("other")...)...)
	time.Sleep(time.Minute)
	next := c.add("r1")
	time.Sleep(time.Minute)
	c.slow.Store(true)
	time.Sleep(5 * time.Second)
	if kill {
		stopped.cancel()
		time.Sleep(grace + abandonAfter - time.Second)
		stopped.kill()
	} else {
		stopped.stop()
	}
	c.slow.Store(false)
	time.Sleep(90 * time.Second)
	next.stop()
	synctest.Wait()
	for i := range groups("value") {
		times := slices.Sorted(maps.Keys(c.data.recorded[fmt.Sprintf(`{__name__="value", group="%d"}`, i)]))
		if len(times) < 100 {
			t.Fatalf("group %d was evaluated %d times", i, len(times))
		}
		for k := 1; k < len(times); k++ {
			if gap := times[k] - times[k-1]; gap != 2000 {
				t.Errorf("group %d with interval 2000 ms was evaluated at %d and then %d ms later", i, times[k-1], gap)
			}
		}
	}
}

// TestClusterFaults checks a cluster in which rulers stop, are killed, cannot reach the row store,
// or are paused in the middle of a write, often until another ruler has taken their shares. No sample is
// written twice with different values, in the end no slot is missing, and no alert is resolved or
// starts again.
func TestClusterFaults(t *testing.T) {
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { clusterFaults(t, seed) }) })
	}
}

func clusterFaults(t *testing.T, seed uint64) {
	store, err := memory.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := &cluster{t: t, store: store, data: newDatabase(t), source: &fakeRules{}, notes: &notifications{}, start: time.Now()}
	c.data.input(seed, c.start, c.start.Add(3*time.Hour))
	var groups []rulefmt.RuleGroup
	for i := range 8 {
		groups = append(groups, rulefmt.RuleGroup{Name: fmt.Sprint("g", i), Interval: seconds(5 + 5*i), Rules: []rulefmt.Rule{
			{Record: "value", Expr: "sum(load)", Labels: map[string]string{"group": fmt.Sprint(i)}},
			{Record: "series", Expr: "pod", Labels: map[string]string{"group": fmt.Sprint(i)}},
			{Alert: "Always", Expr: "vector(1)", For: seconds(60), Labels: map[string]string{"group": fmt.Sprint(i)}},
		}})
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	for i := range 3 {
		c.add(fmt.Sprint("r", i))
	}
	time.Sleep(30 * time.Second)
	c.source.set(testTenant, define("ns", groups...)...)
	time.Sleep(5 * time.Minute)
	for i := range 20 {
		n := c.nodes[rng.IntN(len(c.nodes))]
		switch i % 4 {
		case 0:
			n.stop()
			c.replace(n, fmt.Sprint("s", i))
		case 1:
			n.kill()
			c.replace(n, n.name)
		case 2:
			n.cut.Store(true)
			time.Sleep(time.Duration(rng.Int64N(int64(40 * time.Second))))
			n.cut.Store(false)
		case 3:
			n.cut.Store(true)
			n.stuck.Store(true)
			time.Sleep(time.Duration(rng.Int64N(int64(40 * time.Second))))
			n.stuck.Store(false)
			n.cut.Store(false)
		}
		time.Sleep(time.Minute + time.Duration(rng.Int64N(int64(time.Minute))))
	}
	end := time.Now()
	time.Sleep(time.Minute)
	for _, n := range c.nodes {
		n.stop()
	}
	synctest.Wait()
	c.verify(groups, end)
}

// replace starts a node in the place of one that ended.
func (c *cluster) replace(old *node, name string) {
	c.add(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n == old })
}

// verify checks the recorded samples and the notifications until `end`.
func (c *cluster) verify(groups []rulefmt.RuleGroup, end time.Time) {
	for i, g := range groups {
		interval := time.Duration(g.Interval).Milliseconds()
		samples := c.data.recorded[fmt.Sprintf(`{__name__="value", group="%d"}`, i)]
		times := slices.Sorted(maps.Keys(samples))
		if len(times) < 40 {
			c.t.Fatalf("group %d was evaluated %d times", i, len(times))
		}
		for k := 1; k < len(times); k++ {
			if times[k]-times[k-1] != interval && times[k] < end.UnixMilli() {
				c.t.Errorf("group %d with interval %d ms was evaluated at %d and then %d ms later", i, interval, times[k-1], times[k]-times[k-1])
			}
		}
	}
	for name, samples := range c.data.recorded {
		for at, text := range samples {
			if text == "stale" && strings.Contains(name, "Always") && !strings.Contains(name, "pending") {
				c.t.Errorf("%s is stale at %d", name, at)
			}
		}
	}
	for name, changes := range c.notes.changes {
		if len(changes) != 1 {
			c.t.Errorf("alert %s was notified as %v", name, changes)
		}
	}
	if len(c.notes.changes) != len(groups) {
		c.t.Errorf("%d alerts were notified, want %d", len(c.notes.changes), len(groups))
	}
}
