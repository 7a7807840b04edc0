package querier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
)

// infoTimeout is how long ingesters have to answer what is not about samples.
const infoTimeout = 2 * time.Second

// domainAnswer is what the ingesters of one failure domain answered. It is
// complete if all of them did.
type domainAnswer[T any] struct {
	values []T
	err    error
}

// byDomain puts a question to every ingester and sorts the answers by failure
// domain. An error is part of its domain's answer. Each domain has its own bound of
// questions under way: one whose ingesters hang must not keep others from being asked.
func byDomain[T any](
	ctx context.Context, in *Ingesters, call func(context.Context, Ingester) (T, error),
) (map[string]*domainAnswer[T], error) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	list, err := in.all(ctx)
	if err != nil {
		return nil, err
	}
	members := map[string][]Peer{}
	for i := range list {
		members[list[i].Domain] = append(members[list[i].Domain], list[i])
	}
	out := map[string]*domainAnswer[T]{}
	var asking sync.WaitGroup
	for domain, of := range members {
		d := &domainAnswer[T]{}
		out[domain] = d
		asking.Go(func() {
			for _, r := range peers.Each(ctx, of, call) {
				if r.Err != nil {
					d.err = errors.Join(d.err, r.Err)
					continue
				}
				d.values = append(d.values, r.Value)
			}
		})
	}
	asking.Wait()
	return out, nil
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

// replication is how many replicas a series has: Tolerate is one less than a
// majority of them.
func (in *Ingesters) replication() int { return 2*in.o.Tolerate + 1 }

// Metadata returns what the ingesters know of a tenant's metrics, sorted by no
// order, a metric once for each that knows it. As for samples, so many domains must
// answer that what was acknowledged is in one.
func (in *Ingesters) Metadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	domains, err := byDomain(ctx, in,
		func(ctx context.Context, ing Ingester) ([]series.MetricMetadata, error) { return ing.Metadata(ctx, id) })
	if err != nil {
		return nil, err
	}
	n, errs := complete(domains)
	if n < max(max(len(domains), in.replication())-in.o.Tolerate, 1) {
		return nil, fmt.Errorf("metadata: %w: %w", peers.ErrTooFew, errs)
	}
	var out []series.MetricMetadata
	for _, d := range domains {
		out = append(out, slices.Concat(d.values...)...)
	}
	return out, nil
}

// SeriesCount returns how many active series a tenant has. With as many domains as
// replicas each domain has a copy of every series, and a majority of complete ones
// has every acknowledged series: the most that one has counts. With more domains a
// series is in some of them only, and all must have answered.
func (in *Ingesters) SeriesCount(ctx context.Context, id tenant.ID) (int, error) {
	domains, err := byDomain(ctx, in, func(ctx context.Context, ing Ingester) (int, error) { return ing.SeriesCount(ctx, id) })
	if err != nil {
		return 0, err
	}
	replication := in.replication()
	n, errs := complete(domains)
	copies := len(domains) <= replication
	if copies && n < replication/2+1 || !copies && n < len(domains) {
		return 0, fmt.Errorf("count series: %w: %w", peers.ErrTooFew, errs)
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

// PublishedMetadata is the long-term store's side of Metadata.
type PublishedMetadata interface {
	// Metadata returns what the days from one to another (since 1970) have.
	Metadata(ctx context.Context, id tenant.ID, from, to int64) ([]series.MetricMetadata, error)
}

// Metadata is what is known of a tenant's metrics, sorted by their names: by the
// ingesters, and of those that they do not know any more, by the days that were
// published last.
func Metadata(
	ctx context.Context, recent *Ingesters, published PublishedMetadata, id tenant.ID, now time.Time,
) ([]series.MetricMetadata, error) {
	const days = 2
	today := series.Day(now.UnixMilli())
	long, err := published.Metadata(ctx, id, max(today-days, 0), today)
	if err != nil {
		return nil, err
	}
	known, err := recent.Metadata(ctx, id)
	if err != nil {
		return nil, err
	}
	out := append(known, long...)
	slices.SortStableFunc(out, func(a, b series.MetricMetadata) int { return strings.Compare(a.Metric, b.Metric) })
	return slices.CompactFunc(out, func(a, b series.MetricMetadata) bool { return a.Metric == b.Metric }), nil
}
