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
	// maxHALabel bounds the values that name clusters and replicas, in bytes: they
	// are kept in memory and in the store.
	maxHALabel = 1024
	// maxHAClusters is what ha_max_clusters of 0 means.
	maxHAClusters = 10_000
	// haWorkers is how many claims are renewed at once.
	haWorkers = 8
)

// HAOptions of an HA. Durations of 0 are the defaults.
type HAOptions struct {
	// Store is where distributors agree; election.NewMemory for a process that is
	// the only one.
	Store election.Store

	Failover time.Duration // how long the elected replica may be silent; default 30 s
	Update   time.Duration // between two claims of a cluster; default 15 s; below Failover
	Idle     time.Duration // an election without samples is forgotten after it; default 1 h
	// CallTimeout bounds a call of the store, and how long a push waits for it;
	// default 200 ms.
	CallTimeout time.Duration

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// HA lets the samples of one replica of each cluster through. It is safe for
// concurrent use, and needs Run for what it does beside requests.
type HA struct {
	o     HAOptions
	rules election.Rules

	deduplicated, changes, failures prometheus.Counter

	mu      sync.Mutex
	tenants map[tenant.ID]map[string]*haCluster
	down    bool // the store did not answer the last call
	closed  bool
	calls   sync.WaitGroup
}

// NewHA returns an HA that knows of no elections.
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
			Name: "pallium_distributor_ha_changes_total", Help: "Clusters whose elected replica became another one."}),
		failures: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_distributor_ha_store_failures_total", Help: "Claims of elections that the store did not answer."}),
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_ha_clusters", Help: "Clusters of replicas seen lately."}, h.count)
	return h
}

// Dropped counts what was taken out of a batch because another replica is
// elected. It is no rejection: the sender is told that all is well.
type Dropped struct{ Samples, Histograms, Exemplars int }

// Filter takes out of the batch the series of replicas that are not elected, and
// takes the replica label off those of replicas that are. Series that do not
// carry both labels stay as they are, as do all of a tenant that does not accept
// HA samples. Series of clusters beyond the tenant's limit are taken out, too,
// and counted in out as rejected. It waits for the store no longer than
// CallTimeout altogether, and decides without it then.
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

// haVerdict is what becomes of a series.
type haVerdict struct {
	is              int
	reason, message string // of a rejection
}

const (
	haNone    = iota // it is of no replica
	haElected        // of the elected one
	haOther          // of another one
	haRejected
)

// haFilter is the state of one Filter call.
type haFilter struct {
	h        *HA
	ctx      context.Context
	id       tenant.ID
	lim      *limits.Limits
	patience patience

	cluster, replica string // of the last series that had them
	last             haVerdict

	scratch labels.ScratchBuilder
	drop    string // the label to leave out
	dropped int    // how often it was
}

// verdict looks at one series. Those of a request mostly come from one replica,
// whose verdict is found once.
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
			fmt.Sprintf("labels %s and %s may have up to %d bytes to name a replica, one has %d; shorten it by relabeling",
				f.lim.HAClusterLabel, f.lim.HAReplicaLabel, maxHALabel, n),
		}
	}
	most := f.lim.HAMaxClusters
	if most == 0 {
		most = maxHAClusters
	}
	elected, room := f.h.elected(f.ctx, election.Cluster{Tenant: f.id, Name: cluster}, replica, most, &f.patience)
	switch {
	case !room:
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

// unlabel takes the replica label off a series. One that has it twice stays as
// it is: validation rejects it.
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

// patience is how long one request still waits for the store.
type patience struct {
	timer *time.Timer
	over  bool
}

// wait returns when done is closed, or patience or the request ends. It reports
// whether done is closed.
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

// cluster finds or makes what is known of a cluster; nil if the tenant has no
// room for another one. h.mu is held.
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
	name := strings.Clone(k.Name) // the request's buffer is used again
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
