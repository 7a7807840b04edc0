package distributor

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// maxHALabel is the maximum length in bytes of the label values that name clusters
	// and replicas: both are stored in memory and in the store.
	maxHALabel = 1024
	// maxHAClusters is the limit while ha_max_clusters is 0.
	maxHAClusters = 10_000
	// haWorkers is how many claims are renewed concurrently.
	haWorkers = 8
)

// HAOptions configure an HA. A duration of 0 means its default.
type HAOptions struct {
	// Store holds the elections that all distributors share. A process with the only
	// distributor uses election.NewMemory.
	Store election.Store

	Failover time.Duration // how long the elected replica may send nothing before another is elected; default 30 s
	Update   time.Duration // between two claims of a cluster, less than Failover; default 15 s
	Idle     time.Duration // how long an election is stored after the last sample; default 1 h
	// CallTimeout is the timeout of a call of the store, and the longest time that a
	// push waits for the store; default 200 ms.
	CallTimeout time.Duration

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// HA accepts the samples of one elected replica of each cluster and drops the samples of
// the others. It is safe for concurrent use. Run must be running to renew claims.
type HA struct {
	o     HAOptions
	rules election.Rules

	deduplicated, changes, failures prometheus.Counter

	mu      sync.Mutex
	tenants map[tenant.ID]map[string]*haCluster
	down    bool // the last call of the store failed
	closed  bool
	calls   sync.WaitGroup
}

// NewHA returns an HA without elections.
func NewHA(o HAOptions) *HA {
	for _, d := range []struct {
		field    *time.Duration
		standard time.Duration
	}{{&o.Failover, 30 * time.Second}, {&o.Update, 15 * time.Second}, {&o.Idle, time.Hour}, {&o.CallTimeout, 200 * time.Millisecond}} {
		if *d.field == 0 {
			*d.field = d.standard
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	auto := promauto.With(o.Registerer)
	h := &HA{
		o: o, rules: election.Rules{Failover: o.Failover, Idle: o.Idle},
		tenants: map[tenant.ID]map[string]*haCluster{},
		deduplicated: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_distributor_deduplicated_samples_total",
			Help: "Samples and exemplars dropped because their replica is not the elected one.",
		}),
		changes: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_distributor_ha_changes_total", Help: "Changes of a cluster's elected replica."}),
		failures: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_distributor_ha_store_failures_total", Help: "Failed calls of the store of HA elections."}),
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_ha_clusters", Help: "HA clusters in memory, over all tenants."}, h.count)
	return h
}

// Dropped counts the samples and exemplars that Filter removed from a batch because
// another replica is elected. They are not rejected: the sender gets a success response.
type Dropped struct{ Samples, Histograms, Exemplars int }

// Filter removes the series of replicas that are not elected from the batch, and
// removes the replica label from the series of elected replicas. Series that lack one
// of the two labels are unchanged, and so is the whole batch if the tenant does not
// accept HA samples or has one label for both. Series of clusters beyond the tenant's
// limit, and series whose values of the two labels are too long, are removed and
// counted in out as rejected. Filter waits at most CallTimeout in total for the store,
// and then decides without the store.
func (h *HA) Filter(ctx context.Context, b *series.Batch, lim *limits.Limits, out *series.Outcome) Dropped {
	var dropped Dropped
	if !lim.AcceptHASamples || lim.HAClusterLabel == lim.HAReplicaLabel {
		return dropped
	}
	f := haFilter{h: h, ctx: ctx, id: b.Tenant, lim: lim, drop: lim.HAReplicaLabel}
	defer f.patience.stop()
	kept := b.Entries[:0]
	for i := range b.Entries {
		e := &b.Entries[i]
		switch v := f.verdict(e.Labels); v.is {
		case haElected:
			f.unlabel(e)
			kept = append(kept, *e)
		case haNone:
			kept = append(kept, *e)
		case haOther:
			dropped.add(e)
		case haRejected:
			out.Reject(v.reason, v.message, len(e.Samples), func() string { return shorten(e.Labels.String()) })
		}
	}
	clear(b.Entries[len(kept):]) // as in validator.batch
	b.Entries = kept
	h.deduplicated.Add(float64(dropped.Samples + dropped.Histograms + dropped.Exemplars))
	return dropped
}

func (d *Dropped) add(e *series.Entry) {
	for i := range e.Samples {
		if e.Samples[i].IsHistogram() {
			d.Histograms++
		} else {
			d.Samples++
		}
	}
	d.Exemplars += len(e.Exemplars)
}

// haVerdict is the decision about a series.
type haVerdict struct {
	is              int
	reason, message string // of a rejection
}

const (
	haNone     = iota // the series has no cluster or replica label
	haElected         // it is from the elected replica
	haOther           // it is from another replica
	haRejected        // it is invalid or beyond a limit
)

// haFilter is the state of one Filter call.
type haFilter struct {
	h        *HA
	ctx      context.Context
	id       tenant.ID
	lim      *limits.Limits
	patience patience

	cluster, replica string    // of the last series that had both labels
	last             haVerdict // about that series

	scratch labels.ScratchBuilder
	drop    string // name of the label that keep leaves out
	dropped int    // how often keep left it out
}

// verdict returns what to do with a series. The series of a request mostly come
// from one replica, so the last verdict is reused.
func (f *haFilter) verdict(ls labels.Labels) haVerdict {
	replica := ls.Get(f.lim.HAReplicaLabel)
	if replica == "" {
		return haVerdict{}
	}
	cluster := ls.Get(f.lim.HAClusterLabel)
	if cluster == "" {
		return haVerdict{}
	}
	if f.cluster != cluster || f.replica != replica {
		f.cluster, f.replica = cluster, replica
		f.last = f.decide(cluster, replica)
	}
	return f.last
}

func (f *haFilter) decide(cluster, replica string) haVerdict {
	if n := max(len(cluster), len(replica)); n > maxHALabel {
		return haVerdict{
			haRejected, "ha_label_length",
			fmt.Sprintf("labels %s and %s may each have up to %d bytes to name an HA replica, one has %d; shorten the value by relabeling",
				f.lim.HAClusterLabel, f.lim.HAReplicaLabel, maxHALabel, n),
		}
	}
	most := f.lim.HAMaxClusters
	if most == 0 {
		most = maxHAClusters
	}
	elected, ok := f.h.elected(f.ctx, election.Cluster{Tenant: f.id, Name: cluster}, replica, most, &f.patience)
	switch {
	case !ok:
		return exceededVerdict(limits.HAMaxClusters.ExceededAt(int64(most), limits.More).With(" (label " + f.lim.HAClusterLabel + ")"))
	case elected:
		return haVerdict{is: haElected}
	}
	return haVerdict{is: haOther}
}

func exceededVerdict(e *limits.Exceeded) haVerdict {
	reason, message := e.Reason()
	return haVerdict{haRejected, reason, message}
}

// unlabel removes the replica label from a series. A series that has the label
// twice is unchanged: validation rejects it.
func (f *haFilter) unlabel(e *series.Entry) {
	f.scratch.Reset()
	f.dropped = 0
	e.Labels.Range(f.keep)
	if f.dropped == 1 {
		e.Labels = f.scratch.Labels()
		e.Hash = e.Labels.Hash()
	}
}

func (f *haFilter) keep(l labels.Label) {
	if l.Name == f.drop {
		f.dropped++
		return
	}
	f.scratch.Add(l.Name, l.Value)
}

// patience bounds how long one request waits for the store in total.
type patience struct {
	timer *time.Timer
	over  bool
}

// wait returns when `done` is closed, when `most` has passed since the first wait, or
// when ctx ends. It reports whether `done` was closed.
func (p *patience) wait(ctx context.Context, most time.Duration, done <-chan struct{}) bool {
	if p.timer == nil {
		p.timer = time.NewTimer(most)
	}
	select {
	case <-done:
		return true
	case <-p.timer.C:
	case <-ctx.Done():
	}
	p.over = true
	return false
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// cluster returns the state of a cluster and creates it if needed. It returns nil
// if the tenant already has the maximum number of clusters. h.mu must be held.
func (h *HA) cluster(k election.Cluster, most int) *haCluster {
	of := h.tenants[k.Tenant]
	if c := of[k.Name]; c != nil {
		return c
	}
	if len(of) >= most {
		return nil
	}
	if of == nil {
		of = map[string]*haCluster{}
		h.tenants[k.Tenant] = of
	}
	name := strings.Clone(k.Name) // the request's buffer will be reused
	c := &haCluster{key: election.Cluster{Tenant: k.Tenant, Name: name}}
	of[name] = c
	return c
}

func (h *HA) count() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, of := range h.tenants {
		n += len(of)
	}
	return float64(n)
}
