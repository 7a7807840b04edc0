// Package distributor takes write requests for a tenant: it checks every series
// and sample against the tenant's limits, finds the ingesters that each series
// belongs to, hands them their parts, and decides by their answers what became
// of each series.
package distributor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/policies/limits"
)

// Local is the one ingester of a process that needs no ring.
type Local interface {
	// Push returns when what its outcome counts is as durable as one ingester
	// makes it. An error means that the request should be repeated.
	Push(ctx context.Context, b *series.Batch) (series.Outcome, error)
}

// Replica is one of a cluster's ingesters.
type Replica interface {
	// Push returns as Local's does; the answer names what was rejected by position in
	// the request, which other replicas may be given, too.
	Push(ctx context.Context, p *wire.Push) (wire.PushResponse, error)
}

// Options of a Distributor: Local, or the three that a cluster needs.
type Options struct {
	Local Local

	Ring        ring.Membership
	Replication int
	// Replica returns the ingester of a ring instance. It does not wait.
	Replica func(*ring.Instance) (Replica, error)
	// ShardSize is how many ingesters take a tenant's series; 0 is all.
	ShardSize func(*limits.Limits) int
	// HA hears one of several replicas of a sender; nil: all.
	HA *HA
	// PushTimeout bounds one ingester's answer; default 10 s.
	PushTimeout time.Duration
	// Memory is what waits for ingesters taken from; nil has no limit.
	Memory *memory.Account

	Now        func() time.Time
	Registerer prometheus.Registerer
}

// ErrUnavailable is returned when too few ingesters took a series for it to be
// safe, or too much waits for them. The sender should repeat the request.
var ErrUnavailable = errors.New("too few ingesters took the request")

// errNoLimits is the error of a batch without limits, against which nothing can be
// checked.
var errNoLimits = errors.New("the batch of a write request carries no limits")

// Distributor is safe for concurrent use.
type Distributor struct {
	opts        Options
	written     *prometheus.CounterVec
	rejected    *prometheus.CounterVec
	failures    *prometheus.CounterVec
	established *prometheus.CounterVec
	repeated    *prometheus.CounterVec
	shards      shards
	inflight    atomic.Int64 // bytes on their way to ingesters
	buffers     sync.Pool
	pushes      sync.WaitGroup
	paid        paidDays
}

// New returns a distributor.
func New(o Options) *Distributor {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PushTimeout == 0 {
		o.PushTimeout = 10 * time.Second
	}
	o.Replication = max(o.Replication, 1)
	auto := promauto.With(o.Registerer)
	d := &Distributor{
		opts: o,
		written: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_samples_total", Help: "Samples and exemplars accepted, by type."}, []string{"type"}),
		rejected: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_discarded_samples_total", Help: "Samples rejected, by reason."}, []string{"reason"}),
		failures: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_push_failures_total", Help: "Failed pushes to an ingester."}, []string{"ingester"}),
		established: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_established_pushes_total",
			Help: "Pushes repeated to an ingester that had no room for series which another replica knows, by result (accepted, rejected, failed).",
		}, []string{"ingester", "result"}),
		repeated: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_duplicate_samples_total",
			Help: "Samples at whose time their series had one already, as far as ingesters had it in memory; they count as accepted. " +
				"Of two different values the larger is kept.",
		}, []string{"different"}),
	}
	if o.Local == nil {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_inflight_bytes", Help: "Bytes on their way to ingesters."},
			func() float64 { return float64(d.inflight.Load()) })
	}
	return d
}

// Close waits for pushes whose answers nobody waits for any more.
func (d *Distributor) Close() error {
	d.pushes.Wait()
	return nil
}

// Push writes the batch. The outcome says what was kept and what was rejected;
// an error means that nothing is certain and the sender should try again. The
// batch carries its tenant's limits. It is changed: rejected parts are taken out of it.
func (d *Distributor) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	var out series.Outcome
	if b.Limits == nil {
		return out, errNoLimits
	}
	if d.opts.HA != nil {
		out.Deduplicated = series.Counts(d.opts.HA.Filter(ctx, b, b.Limits, &out))
	}
	out.Rejections = append(out.Rejections, b.Malformed...)
	now := d.opts.Now()
	v := validator{lim: b.Limits, now: now.UnixMilli(), out: &out}
	v.batch(b)
	more, err := d.send(ctx, b)
	if err != nil {
		return series.Outcome{}, err
	}
	out.Add(more)
	for _, r := range more.Repeats {
		d.repeated.WithLabelValues("false").Add(float64(r.Same))
		d.repeated.WithLabelValues("true").Add(float64(r.Different))
	}
	out.Charged = d.paid.charge(b.Tenant, now, &v.windows)
	d.written.WithLabelValues("float").Add(float64(out.Samples))
	d.written.WithLabelValues("histogram").Add(float64(out.Histograms))
	d.written.WithLabelValues("exemplar").Add(float64(out.Exemplars))
	for _, r := range out.Rejections {
		d.rejected.WithLabelValues(r.Reason).Add(float64(r.Samples))
	}
	return out, nil
}

func (d *Distributor) send(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	if len(b.Entries) == 0 && len(b.Metadata) == 0 {
		return series.Outcome{}, nil
	}
	if d.opts.Local != nil {
		return d.opts.Local.Push(ctx, b)
	}
	return d.replicate(ctx, b)
}

// maxShards bounds the tenants whose shards are remembered.
const maxShards = 20_000

// shards remembers the parts of the ring that take tenants' series.
type shards struct {
	mu   sync.Mutex
	of   *ring.Ring
	byID map[shardKey]*ring.Ring
}

type shardKey struct {
	id   tenant.ID
	size int
}

func (s *shards) get(r *ring.Ring, id tenant.ID, size int) *ring.Ring {
	if size <= 0 || size >= len(r.Instances()) {
		return r
	}
	key := shardKey{id, size}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.Places(s.of) || len(s.byID) >= maxShards {
		s.of, s.byID = r, map[shardKey]*ring.Ring{}
	}
	if s.byID[key] == nil {
		s.byID[key] = r.Shard(id, size)
	}
	return s.byID[key]
}
