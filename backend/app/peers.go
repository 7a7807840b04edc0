package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/series"
)

// metadataTimeout is how long ingesters have to say what they know.
const metadataTimeout = 2 * time.Second

// domainAnswer is what the ingesters of one failure domain answered. It is
// complete if all of them did.
type domainAnswer[T any] struct {
	values []T
	err    error
}

// askIngesters puts a question to every ingester of the ring, side by side, and
// sorts the answers by failure domain.
func askIngesters[T any](ctx context.Context, a *App, call func(context.Context, *rpc.Peer) (T, error)) (map[string]*domainAnswer[T], error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", querier.ErrSilent, err)
	}
	return gather(r.Instances(), func(in *ring.Instance) (T, error) {
		p, err := a.pool.Peer(in.Addr)
		if err != nil {
			var none T
			return none, err
		}
		return call(ctx, p)
	}), nil
}

// gather calls all instances side by side and sorts the answers by failure
// domain. An error is part of its domain's answer.
func gather[T any](instances []ring.Instance, call func(*ring.Instance) (T, error)) map[string]*domainAnswer[T] {
	type answer struct {
		domain string
		value  T
		err    error
	}
	answers := make(chan answer, len(instances))
	for i := range instances {
		in := &instances[i]
		go func() {
			value, err := call(in)
			if err != nil {
				err = fmt.Errorf("ingester %s: %w", in.ID, err)
			}
			answers <- answer{in.Domain(), value, err}
		}()
	}
	out := map[string]*domainAnswer[T]{}
	for range instances {
		got := <-answers
		d := out[got.domain]
		if d == nil {
			d = &domainAnswer[T]{}
			out[got.domain] = d
		}
		if got.err != nil {
			d.err = errors.Join(d.err, got.err)
			continue
		}
		d.values = append(d.values, got.value)
	}
	return out
}

// complete counts the domains that answered completely, and joins the errors of
// the others.
func complete[T any](domains map[string]*domainAnswer[T]) (n int, errs error) {
	for _, d := range domains {
		if d.err == nil {
			n++
		}
		errs = errors.Join(errs, d.err)
	}
	return n, errs
}

// clusterMetadata is what the ingesters know of a tenant's metrics. As for
// samples, so many domains must answer that what was acknowledged is in one.
func (a *App) clusterMetadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	domains, err := askIngesters(ctx, a, func(ctx context.Context, p *rpc.Peer) ([]series.MetricMetadata, error) { return p.Metadata(ctx, id) })
	if err != nil {
		return nil, err
	}
	return joinMetadata(domains, a.cfg.Cluster.Replication)
}

func joinMetadata(domains map[string]*domainAnswer[[]series.MetricMetadata], replication int) ([]series.MetricMetadata, error) {
	tolerate := (replication - 1) / 2
	n, errs := complete(domains)
	if n < max(max(len(domains), replication)-tolerate, 1) {
		return nil, fmt.Errorf("metadata: %w: %w", querier.ErrSilent, errs)
	}
	var out []series.MetricMetadata
	for _, d := range domains {
		out = append(out, slices.Concat(d.values...)...)
	}
	return out, nil
}

// clusterSeries is how many active series a tenant has.
func (a *App) clusterSeries(ctx context.Context, id tenant.ID) (int, error) {
	domains, err := askIngesters(ctx, a, func(ctx context.Context, p *rpc.Peer) (int, error) { return p.SeriesCount(ctx, id) })
	if err != nil {
		return 0, err
	}
	return countSeries(domains, a.cfg.Cluster.Replication)
}

// countSeries tells the number of series from what the ingesters have. With as
// many domains as replicas each domain has a copy of every series, and a majority
// of complete ones has every acknowledged series: the most that one has counts.
// With more domains a series is in some of them only, and all must have answered.
func countSeries(domains map[string]*domainAnswer[int], replication int) (int, error) {
	n, errs := complete(domains)
	copies := len(domains) <= replication
	if copies && n < replication/2+1 || !copies && n < len(domains) {
		return 0, fmt.Errorf("count series: %w: %w", querier.ErrSilent, errs)
	}
	most, all := 0, 0
	for _, d := range domains {
		sum := 0
		for _, v := range d.values {
			sum += v
		}
		all += sum
		if d.err == nil {
			most = max(most, sum)
		}
	}
	if copies {
		return most, nil
	}
	return (all + replication - 1) / replication, nil
}
