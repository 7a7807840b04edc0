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

// infoTimeout is the timeout of requests to ingesters for metadata and series
// counts.
const infoTimeout = 2 * time.Second

// domainAnswer has the responses of the ingesters of one failure domain. It is
// complete if err is nil.
type domainAnswer[T any] struct {
	values []T
	err    error
}

// byDomain calls every ingester and returns the responses and errors by failure
// domain. The number of concurrent calls is limited per domain, so that a
// domain with hanging ingesters does not delay calls to other domains.
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
	var calls sync.WaitGroup
	for domain, of := range members {
		d := &domainAnswer[T]{}
		out[domain] = d
		calls.Go(func() {
			for _, r := range peers.Each(ctx, of, call) {
				if r.Err != nil {
					d.err = errors.Join(d.err, r.Err)
					continue
				}
				d.values = append(d.values, r.Value)
			}
		})
	}
	calls.Wait()
	return out, nil
}

// complete counts the domains with complete answers, and joins the errors of
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

// replication returns the number of replicas of a series: Tolerate is one less
// than a majority of them.
func (in *Ingesters) replication() int { return 2*in.o.Tolerate + 1 }

// Metadata returns the metadata of a tenant's metrics from the ingesters, unsorted, with each
// metric once per ingester that has it. All ingesters of enough domains must respond, so that the
// result has every acknowledged write; otherwise the error wraps peers.ErrTooFew.
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

// SeriesCount returns the number of active series of a tenant. With at most as many domains as
// replicas, every domain has a copy of every series: as many domains as a majority of the replicas
// must respond, and the result is the largest count. With more domains, a series is only in some of
// them: all must respond, and the result is the sum divided by the replication factor. If too few
// respond, the error wraps peers.ErrTooFew.
func (in *Ingesters) SeriesCount(ctx context.Context, id tenant.ID) (int, error) {
	domains, err := byDomain(ctx, in, func(ctx context.Context, ing Ingester) (int, error) { return ing.SeriesCount(ctx, id) })
	if err != nil {
		return 0, err
	}
	n, err := countOnce(in, domains, func(n int) int64 { return int64(n) })
	if err != nil {
		return 0, fmt.Errorf("count series: %w", err)
	}
	return int(n), nil
}

// HeadStats returns the number and time range of a tenant's chunks in memory. Chunks are counted
// like series in SeriesCount. If too few ingesters respond, the error wraps peers.ErrTooFew.
func (in *Ingesters) HeadStats(ctx context.Context, id tenant.ID) (series.HeadStats, error) {
	domains, err := byDomain(ctx, in, func(ctx context.Context, ing Ingester) (series.HeadStats, error) { return ing.HeadStats(ctx, id) })
	if err != nil {
		return series.HeadStats{}, err
	}
	out := series.NoHead()
	if out.Chunks, err = countOnce(in, domains, func(h series.HeadStats) int64 { return h.Chunks }); err != nil {
		return series.HeadStats{}, fmt.Errorf("statistics of the head: %w", err)
	}
	for _, d := range domains {
		for _, h := range d.values {
			out.Extend(h)
		}
	}
	return out, nil
}

// countOnce adds up the counts of all ingesters as SeriesCount describes, so that the copies of
// replicas count once.
func countOnce[T any](in *Ingesters, domains map[string]*domainAnswer[T], count func(T) int64) (int64, error) {
	replication := in.replication()
	n, errs := complete(domains)
	copies := len(domains) <= replication
	if copies && n < replication/2+1 || !copies && n < len(domains) {
		return 0, fmt.Errorf("%w: %w", peers.ErrTooFew, errs)
	}
	most, all := int64(0), int64(0)
	for _, d := range domains {
		sum := int64(0)
		for _, v := range d.values {
			sum += count(v)
		}
		all += sum
		if d.err == nil {
			most = max(most, sum)
		}
	}
	if copies {
		return most, nil
	}
	return (all + int64(replication) - 1) / int64(replication), nil
}

// PublishedMetadata is the metadata in the long-term store.
type PublishedMetadata interface {
	// Metadata returns the metadata of the days between from and to, inclusive, in days since 1970.
	Metadata(ctx context.Context, id tenant.ID, from, to int64) ([]series.MetricMetadata, error)
}

// Metadata returns the metadata of a tenant's metrics, sorted by name. It prefers the metadata of
// ingesters; for other metrics it returns the metadata published for today and the two days before.
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
