package model

import (
	"context"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// system is the system under test: one process, or a cluster.
type system interface {
	edges() []string
	// command runs an admin command of the command line.
	command(args ...string) (string, error)
	// flush and compact return an error if they failed.
	flush(ctx context.Context) error
	compact(ctx context.Context) error
}

// operation is a random operation on the system.
type operation struct {
	name   string
	weight int
	do     func(*run)
}

// run is one run of the test.
type run struct {
	t       *testing.T
	seed    int64
	sys     system
	slacks  slacks
	strays  bool // the system has replicas, so a response proves nothing about the next one
	gen     *generator
	client  *client
	tenants []*Tenant
	step    int
	made    int // number of tenants created so far
	failed  sync.Mutex
	// faulty is set while something is broken: requests may then get 503 or no response.
	faulty atomic.Bool
	// writing is set while samples are pushed concurrently with queries.
	writing atomic.Bool

	counting sync.Mutex
	done     map[string]int // count of each operation, by name
	recent   []string       // names of the last operations
}

// tenantCount is the number of tenants that exist at a time.
const tenantCount = 3

// newRun creates a run. The seed is in MODEL_SEED, or random; MODEL_WITHOUT names operations, kinds
// of queries and kinds of samples to leave out.
func newRun(t *testing.T, sys system, s slacks, strays bool) *run {
	t.Helper()
	seed := time.Now().UnixNano() % 1_000_000
	if text := os.Getenv("MODEL_SEED"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("MODEL_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("MODEL_SEED=%d", seed)
	without := map[string]bool{}
	for name := range strings.SplitSeq(os.Getenv("MODEL_WITHOUT"), ",") {
		without[strings.TrimSpace(name)] = true
	}
	r := &run{t: t, seed: seed, sys: sys, slacks: s, strays: strays, client: newClient(), done: map[string]int{},
		gen: &generator{rnd: rand.New(rand.NewSource(seed)), without: without}}
	for range tenantCount {
		r.tenants = append(r.tenants, r.newTenant())
	}
	return r
}

// duration returns how long a run takes: the duration in MODEL, or `short` if MODEL is not
// set.
func duration(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("MODEL")
	if text == "" {
		return short
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("MODEL: %v", err)
	}
	return d
}

// spare is the time reserved for stopping everything before -timeout.
const spare = time.Minute

// lastMoment returns when the test must stop everything; ok is false without -timeout.
func lastMoment(t *testing.T) (at time.Time, ok bool) {
	t.Helper()
	at, ok = t.Deadline()
	return at.Add(-spare), ok
}

// newTenant creates a tenant without limits that would slow the test down.
func (r *run) newTenant() *Tenant {
	r.t.Helper()
	r.made++
	t := &Tenant{name: fmt.Sprintf("model-%d", r.made), series: newSeries(), views: map[*View]bool{}}
	r.must(r.sys.command("tenant", "create", t.name))
	r.must(r.sys.command("limits", "set", t.name, "requests_per_second=0", "samples_per_second=0", "bytes_per_second=0",
		"max_concurrent_requests=0"))
	t.token = r.must(
		r.sys.command("token", "issue", "-tenant", t.name, "-scopes", "metrics:read,metrics:write,metrics:delete", "-name", t.name, "-q"))
	// Other processes accept a new key within a second.
	for deadline := time.Now().Add(30 * time.Second); ; {
		known := true
		for _, edge := range r.sys.edges() {
			known = known &&
				r.client.do(context.Background(), http.MethodGet, edge+"/prometheus/api/v1/query?query=1", t.token, nil).code == http.StatusOK
		}
		if known {
			return t
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("seed %d, step %d: the key of a new tenant is still rejected", r.seed, r.step)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *run) must(out string, err error) string {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("seed %d, step %d: %v", r.seed, r.step, err)
	}
	return out
}

// play runs random operations until the time is over or a response differs.
func (r *run) play(d time.Duration, list []operation) {
	r.t.Helper()
	total := 0
	list = slices.DeleteFunc(list, func(o operation) bool { return r.gen.without[o.name] })
	for _, o := range list {
		total += o.weight
	}
	deadline := time.Now().Add(d)
	if at, ok := lastMoment(r.t); ok && at.Before(deadline) {
		deadline = at
	}
	for ; time.Now().Before(deadline) && !r.t.Failed(); r.step++ {
		n := r.gen.rnd.Intn(total)
		i := 0
		for ; n >= list[i].weight; i++ {
			n -= list[i].weight
		}
		r.count(list[i].name)
		list[i].do(r)
	}
	if r.t.Failed() {
		return
	}
	for _, t := range r.tenants { // the remaining tenants, with every kind of query
		r.ask(t, 60)
	}
	samples := 0
	for _, t := range r.tenants {
		samples += t.samples
	}
	r.t.Logf("seed %d: %d steps, %d acknowledged samples in the %d remaining tenants, no difference; %v",
		r.seed, r.step, samples, len(r.tenants), r.done)
}

// common returns the operations that every system supports.
func common() []operation {
	return []operation{
		{"push", 400, func(r *run) { r.push(context.Background(), r.tenant()) }},
		{"query", 400, func(r *run) { r.ask(r.tenant(), 3) }},
		{"stray", 20, (*run).stray},
		{"flush", 10, func(r *run) { r.maintain(r.sys.flush) }},
		{"compact", 8, func(r *run) { r.maintain(r.sys.compact) }},
		{"delete", 12, (*run).deleteSeries},
		{"retention", 5, (*run).changeRetention},
		{"tenants", 2, (*run).replaceTenant},
		{"publish", 6, (*run).publishing},
		{"concurrent", 6, (*run).concurrent},
	}
}

// count records that an operation was done.
func (r *run) count(name string) {
	r.counting.Lock()
	defer r.counting.Unlock()
	r.done[name]++
	r.recent = append(r.recent[max(0, len(r.recent)-9):], time.Now().UTC().Format("15:04:05.000 ")+name)
}

// lately returns the names of the last operations.
func (r *run) lately() []string {
	r.counting.Lock()
	defer r.counting.Unlock()
	return slices.Clone(r.recent)
}

// counted returns how often an operation was done.
func (r *run) counted(name string) int {
	r.counting.Lock()
	defer r.counting.Unlock()
	return r.done[name]
}

func (r *run) tenant() *Tenant { return r.tenants[r.gen.rnd.Intn(len(r.tenants))] }

func (r *run) edge() string { return r.sys.edges()[r.gen.rnd.Intn(len(r.sys.edges()))] }

// differ fails the test with a difference.
func (r *run) differ(t *Tenant, what string, d *Difference) {
	r.failed.Lock()
	defer r.failed.Unlock()
	if !r.t.Failed() { // the first difference is enough; others follow from it
		r.t.Errorf("a response differs from the model\nseed:     %d (MODEL_SEED)\nstep:     %d\ndone:     %s\ntenant:   %s\nquery:    %s\n%s",
			r.seed, r.step, strings.Join(r.lately(), ", "), t.name, what, d)
	}
}

// mayFail reports whether a response other than 2xx is allowed: while something is broken, 503 or
// no response.
func (r *run) mayFail(a response) bool {
	return r.faulty.Load() && (a.code == 0 || a.code == http.StatusServiceUnavailable)
}

// push sends random samples and records their outcome. It reports whether they were
// sent.
func (r *run) push(ctx context.Context, t *Tenant) bool {
	if !r.repeatDeletion(t) {
		return false
	}
	t.mu.Lock()
	samples := r.gen.samples(t, time.Now())
	t.mu.Unlock()
	return r.send(ctx, t, samples, r.edge(), 1+r.gen.rnd.Intn(2))
}

func (r *run) send(ctx context.Context, t *Tenant, samples []Sample, edge string, version int) bool {
	if len(samples) == 0 {
		return true
	}
	t.begin(samples)
	bounded, cancel := r.bounded(ctx)
	defer cancel()
	a, written := r.client.push(bounded, edge, t.token, version, t.entries(samples))
	how := fmt.Sprintf("remote write %d to %s: %d", version, edge, a.code)
	switch a.code / 100 {
	case 2:
		t.finish(samples, Acknowledged, how)
		if written != len(samples) {
			r.differ(t, how, &Difference{Expected: fmt.Sprintf("%d samples written", len(samples)), Got: fmt.Sprintf("%d; %s", written, a)})
		}
	case 4:
		t.finish(samples, Rejected, how)
		r.differ(t, how, &Difference{Expected: "valid samples are accepted", Got: a.String()})
	default:
		if a.unsent {
			t.finish(samples, Rejected, how)
		} else {
			t.finish(samples, Unknown, how)
		}
		r.count("push failed")
		if ctx.Err() == nil && !r.mayFail(a) {
			r.differ(t, how, &Difference{Expected: "the push is accepted because nothing is broken", Got: a.String()})
		}
	}
	return !a.unsent
}

// stray sends valid samples and an invalid one. The invalid sample must be rejected, and the
// valid ones must be accepted.
func (r *run) stray() {
	t := r.tenant()
	if !r.repeatDeletion(t) {
		return
	}
	t.mu.Lock()
	samples := r.gen.samples(t, time.Now())
	t.mu.Unlock()
	bad := r.gen.stray(time.Now())
	edge, version := r.edge(), 1+r.gen.rnd.Intn(2)
	t.begin(samples)
	list := append(slices.Clone(samples), bad)
	ctx, cancel := r.bounded(context.Background())
	defer cancel()
	a, written := r.client.push(ctx, edge, t.token, version, t.entries(list))
	how := fmt.Sprintf("remote write %d to %s with an invalid sample: %d", version, edge, a.code)
	switch {
	case a.code == http.StatusBadRequest:
		t.finish(samples, Acknowledged, how)
		if written != len(samples) {
			r.differ(t, how, &Difference{Expected: fmt.Sprintf("%d samples written", len(samples)), Got: fmt.Sprintf("%d; %s", written, a)})
		}
	case r.mayFail(a):
		t.finish(samples, Unknown, how)
	default:
		t.finish(samples, Unknown, how)
		r.differ(t, how, &Difference{Expected: "400 for an invalid sample", Got: a.String()})
	}
}

// ask runs random queries, one after the other, and compares the responses. No samples
// are pushed concurrently.
func (r *run) ask(t *Tenant, n int) {
	for range n {
		r.askOnce(t, r.gen.rnd.Int63())
	}
}

func (r *run) askOnce(t *Tenant, seed int64) {
	q := &query{
		rnd: rand.New(rand.NewSource(seed)), client: r.client, edges: r.sys.edges(),
		view: t.look(), slacks: r.slacks, without: r.gen.without,
	}
	defer q.view.end()
	ctx, cancel := r.bounded(context.Background())
	defer cancel()
	d := q.ask(ctx)
	if d == nil && q.answer.code != http.StatusOK && !r.mayFail(q.answer) {
		d = &Difference{Expected: "a 200 response", Got: q.answer.String()}
	}
	if d != nil {
		r.differ(t, q.String(), d)
		return
	}
	if !r.strays && !r.writing.Load() && q.kind == "remote read" && q.answer.code == http.StatusOK && !q.view.doubts {
		r.prove(t, q)
	}
}

// prove records what a response proves about samples that may exist.
func (r *run) prove(t *Tenant, q *query) {
	seen := map[string]map[int64]*Value{}
	for i := range q.results {
		of := map[int64]*Value{}
		for j := range q.results[i].points {
			of[q.results[i].points[j].t] = q.results[i].points[j].full
		}
		seen[q.results[i].labels.String()] = of
	}
	all := q.view.expect(q.slacks).all
	for i, s := range q.view.series {
		if !matches(q.matchers, s.labels) {
			continue
		}
		for _, at := range s.times(max(q.from+1, all), q.to) {
			t.proven(i, at, seen[s.labels.String()][at])
		}
	}
}

// patience is the timeout of a request. It is brokenPatience while something is broken: the request
// could otherwise wait very long, or forever.
const (
	patience       = 5 * time.Minute // includes compactions of many packs on a busy machine
	brokenPatience = 3 * time.Second
)

// bounded returns a context for one request.
func (r *run) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.faulty.Load() {
		return context.WithTimeout(ctx, brokenPatience)
	}
	return context.WithTimeout(ctx, patience)
}

// maintain flushes or compacts.
func (r *run) maintain(do func(context.Context) error) {
	ctx, cancel := r.bounded(context.Background())
	defer cancel()
	if err := do(ctx); err != nil && !r.faulty.Load() {
		r.t.Errorf("seed %d, step %d: %v", r.seed, r.step, err)
	}
}

// parse parses a selector of the test.
func parse(selector string) []*labels.Matcher {
	ms, err := parser.NewParser(parser.Options{}).ParseMetricSelector(selector)
	if err != nil {
		panic(fmt.Sprintf("selector %s: %v", selector, err))
	}
	return ms
}
