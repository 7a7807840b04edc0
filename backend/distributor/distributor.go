// Package distributor accepts write requests for a tenant. It validates every
// series and sample against the tenant's limits, finds each series' replica set in
// the ring, pushes the series to these ingesters, and decides by their responses
// whether each series was accepted or rejected.
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

// Local is the only ingester of a process that runs without a ring.
type Local interface {
	// Push returns once everything that its outcome counts as accepted is durable on
	// this ingester. An error means that the sender should repeat the request.
	Push(ctx context.Context, b *series.Batch) (series.Outcome, error)
}

// Replica is an ingester of a cluster.
type Replica interface {
	// Push returns as Local.Push does. The response names rejected entries by their
	// position in the request. p may be shared with other replicas: it must not be
	// changed.
	Push(ctx context.Context, p *wire.Push) (wire.PushResponse, error)
}

// Options configure a Distributor. Either Local is set, or Ring, Replication and
// Replica are, in a cluster.
type Options struct {
	Local Local

	Ring        ring.Membership
	Replication int
	// Replica returns a client for the ingester of a ring instance. It does not block.
	Replica func(*ring.Instance) (Replica, error)
	// ShardSize returns the number of ingesters in a tenant's shard; 0 means all.
	ShardSize func(*limits.Limits) int
	// HA deduplicates samples of senders that run as several replicas; nil accepts
	// the samples of all replicas.
	HA *HA
	// Fence returns an error that wraps series.ErrFenced if a ruler no longer holds the share of
	// a write's fence. Without it, writes with a fence are rejected.
	Fence func(ctx context.Context, share int, number uint64) error
	// PushTimeout is the timeout of a push to one ingester; default 10 s.
	PushTimeout time.Duration
	// Memory is charged with pushes in flight to ingesters; nil means no limit.
	Memory *memory.Account

	Now        func() time.Time
	Registerer prometheus.Registerer
}

// ErrUnavailable is returned when fewer than a quorum of a series' replicas
// accepted or rejected it. The sender should repeat the request.
var ErrUnavailable = errors.New("too few ingesters accepted the request")

// errNoLimits is returned for a batch without limits, which cannot be validated.
var errNoLimits = errors.New("internal error: the batch of a write request has no limits of its tenant")

// errNoFence is returned for a batch with a fence that this distributor cannot check.
var errNoFence = errors.New("internal error: this distributor has no access to the shares of rule groups")

// Distributor is safe for concurrent use.
type Distributor struct {
	opts        Options
	written     *prometheus.CounterVec
	rejected    *prometheus.CounterVec
	failures    *prometheus.CounterVec
	established *prometheus.CounterVec
	repeated    *prometheus.CounterVec
	shards      shards
	inflight    atomic.Int64 // bytes of pushes that have no response yet
	buffers     sync.Pool
	pushes      sync.WaitGroup
	paid        paidDays
}

// New returns a Distributor.
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
			Name: "pallium_distributor_push_failures_total", Help: "Failed pushes, by ingester."}, []string{"ingester"}),
		established: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_established_pushes_total",
			Help: "Pushes retried at an ingester that rejected series for lack of capacity although another replica has them, " +
				"by ingester and result (accepted, rejected, failed).",
		}, []string{"ingester", "result"}),
		repeated: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_duplicate_samples_total",
			Help: "Accepted samples whose series already had a sample at the same timestamp in the head of an ingester, " +
				"by whether the value differs. Of two different values, all replicas keep the same one.",
		}, []string{"different"}),
	}
	if o.Local == nil {
		auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_inflight_bytes", Help: "Bytes of pushes in flight to ingesters."},
			func() float64 { return float64(d.inflight.Load()) })
	}
	return d
}

// Close waits for pushes that are still in flight although their request has ended.
func (d *Distributor) Close() error {
	d.pushes.Wait()
	return nil
}

// Push writes the batch, which must carry its tenant's limits. The outcome counts
// accepted and rejected samples. An error means that any part of the batch may or may
// not have been written. Unless it is a memory.TooLargeError or wraps series.ErrFenced, the
// sender should repeat the request. Push removes invalid samples and series from the batch.
func (d *Distributor) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	var out series.Outcome
	if b.Limits == nil {
		return out, errNoLimits
	}
	if err := d.fence(ctx, b.Fence); err != nil {
		return out, err
	}
	if d.opts.HA != nil && b.Fence == nil { // the results of rules come from one ruler
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

// fence checks that the sender of a write with a fence still holds its share.
func (d *Distributor) fence(ctx context.Context, f *series.Fence) error {
	switch {
	case f == nil:
		return nil
	case d.opts.Fence == nil:
		return errNoFence
	}
	return d.opts.Fence(ctx, f.Share, f.Number)
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

// maxShards is the maximum number of cached shards.
const maxShards = 20_000

// shards caches the shards of tenants for one ring.
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
	if !r.SamePlacement(s.of) || len(s.byID) >= maxShards {
		s.of, s.byID = r, map[shardKey]*ring.Ring{}
	}
	if s.byID[key] == nil {
		s.byID[key] = r.Shard(id, size)
	}
	return s.byID[key]
}
