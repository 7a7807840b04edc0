// Package distributor takes write requests for a tenant: it checks every series
// and sample against the tenant's limits, finds the ingesters that each series
// belongs to, and hands them their parts.
package distributor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Ingester is one ingester as the distributor sees it.
type Ingester interface {
	// Push returns when what its outcome counts is as durable as one ingester
	// makes it. An error means that the request should be repeated.
	Push(ctx context.Context, b *series.Batch) (series.Outcome, error)
}

// Options of a Distributor.
type Options struct {
	Ring        ring.Membership
	Replication int
	// Ingester returns the ingester of a ring instance.
	Ingester   func(*ring.Instance) (Ingester, error)
	Limits     func(tenant.ID) limits.Limits
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// ErrUnavailable is returned when too few ingesters took a series for it to be
// safe. The sender should repeat the request.
var ErrUnavailable = errors.New("too few ingesters took the request")

// Distributor is safe for concurrent use.
type Distributor struct {
	opts    Options
	written *prometheus.CounterVec
	refused *prometheus.CounterVec
}

// New returns a distributor.
func New(o Options) *Distributor {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Replication = max(o.Replication, 1)
	auto := promauto.With(o.Registerer)
	return &Distributor{
		opts: o,
		written: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_samples_total", Help: "Samples and exemplars accepted, by type."}, []string{"type"}),
		refused: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "pallium_distributor_refused_samples_total", Help: "Samples refused, by reason."}, []string{"reason"}),
	}
}

// Push writes the batch. The outcome says what was kept and what was refused;
// an error means that nothing is certain and the sender should try again. The
// batch is changed: refused parts are taken out of it.
func (d *Distributor) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	var out series.Outcome
	v := validator{lim: d.opts.Limits(b.Tenant), now: d.opts.Now().UnixMilli(), out: &out}
	v.batch(b)
	more, err := d.send(ctx, b)
	if err != nil {
		return series.Outcome{}, err
	}
	out.Add(more)
	d.written.WithLabelValues("float").Add(float64(out.Samples))
	d.written.WithLabelValues("histogram").Add(float64(out.Histograms))
	d.written.WithLabelValues("exemplar").Add(float64(out.Exemplars))
	for _, r := range out.Refusals {
		d.refused.WithLabelValues(r.Reason).Add(float64(r.Samples))
	}
	return out, nil
}

// send gives each ingester its part of the batch. With one ingester, that is
// the batch itself.
func (d *Distributor) send(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	if len(b.Entries) == 0 && len(b.Metadata) == 0 {
		return series.Outcome{}, nil
	}
	r, err := d.opts.Ring.Ring(ctx)
	if err != nil {
		return series.Outcome{}, err
	}
	if d.opts.Replication > 1 {
		return series.Outcome{}, fmt.Errorf("replication factor %d needs the cluster's distributor", d.opts.Replication)
	}
	parts, err := d.split(r, b)
	if err != nil {
		return series.Outcome{}, err
	}
	var out series.Outcome
	for in, part := range parts {
		ing, err := d.opts.Ingester(in)
		if err != nil {
			return series.Outcome{}, err
		}
		o, err := ing.Push(ctx, part)
		if err != nil {
			return series.Outcome{}, fmt.Errorf("ingester %s: %w", in.ID, err)
		}
		out.Add(o)
	}
	return out, nil
}

func (d *Distributor) split(r *ring.Ring, b *series.Batch) (map[*ring.Instance]*series.Batch, error) {
	var found []*ring.Instance
	var err error
	if len(r.Instances()) == 1 {
		if found, err = r.Replicas(0, 1, found); err != nil {
			return nil, err
		}
		return map[*ring.Instance]*series.Batch{found[0]: b}, nil
	}
	parts := map[*ring.Instance]*series.Batch{}
	for i := range b.Entries {
		e := &b.Entries[i]
		if found, err = r.Replicas(series.Token(b.Tenant, e.Hash), 1, found); err != nil {
			return nil, err
		}
		p := parts[found[0]]
		if p == nil {
			p = &series.Batch{Tenant: b.Tenant}
			parts[found[0]] = p
		}
		p.Entries = append(p.Entries, *e)
	}
	if len(b.Metadata) > 0 {
		shareMetadata(r, b, parts)
	}
	return parts, nil
}

// shareMetadata gives the metadata to every ingester that takes series: each
// keeps it beside its part of them. Senders send it in requests of its own.
func shareMetadata(r *ring.Ring, b *series.Batch, parts map[*ring.Instance]*series.Batch) {
	instances := r.Instances()
	for i := range instances {
		in := &instances[i]
		if in.State != ring.Active {
			continue
		}
		if parts[in] == nil {
			parts[in] = &series.Batch{Tenant: b.Tenant}
		}
		parts[in].Metadata = b.Metadata
	}
}
