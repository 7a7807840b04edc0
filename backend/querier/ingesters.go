package querier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// Ingester is the interface of an ingester for queries. Select and Labels also
// return the L0 packs from which the result was read.
type Ingester interface {
	Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error)
	// Labels returns the sorted label names if name is empty, otherwise the sorted values of that label.
	Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
	// Metadata returns the type, help and unit of the tenant's metrics.
	Metadata(ctx context.Context, id tenant.ID) ([]series.MetricMetadata, error)
	// SeriesCount returns the number of active series of the tenant.
	SeriesCount(ctx context.Context, id tenant.ID) (int, error)
	// HeadStats returns the number and the time range of the tenant's chunks in memory.
	HeadStats(ctx context.Context, id tenant.ID) (series.HeadStats, error)
	// Version returns the version of the tenant's samples in the ingester.
	Version(ctx context.Context, id tenant.ID) (series.IngesterVersion, error)
}

// Peer is an ingester and its failure domain.
type Peer = peers.Peer[Ingester]

// IngestersOptions configures Ingesters.
type IngestersOptions struct {
	// Peers returns all ingesters that may have samples, including those in
	// state LEAVING.
	Peers func(context.Context) ([]Peer, error)
	// Tolerate is the number of domains that may be unavailable. Every acknowledged sample is on a
	// majority of the replicas, which are in distinct domains, so Tolerate is one less than a majority.
	Tolerate int
	// Lost returns the domains in which an ingester was lost together with samples of the tenant
	// and range that are not in the long-term store. They count as unavailable, even if all their
	// ingesters respond. If nil, no domain is lost.
	Lost func(ctx context.Context, id tenant.ID, mint, maxt int64) ([]string, error)
	// HedgeAfter is the time after which requests are also sent to the
	// remaining domains (hedged requests); default 300 ms.
	HedgeAfter time.Duration
}

// Ingesters queries ingesters. It first sends requests to as many domains as are needed to find every
// acknowledged sample. It also queries the remaining domains if one of the first domains fails or is
// slow. The result is the union. If too few domains respond, it returns peers.ErrTooFew.
type Ingesters struct {
	o    IngestersOptions
	late *background.Group // runs requests whose responses are no longer needed
}

var _ Recent = (*Ingesters)(nil)

// NewIngesters returns Ingesters with the options.
func NewIngesters(o IngestersOptions) *Ingesters {
	if o.HedgeAfter == 0 {
		o.HedgeAfter = 300 * time.Millisecond
	}
	return &Ingesters{o: o, late: background.New()}
}

// Close waits for requests whose responses are no longer needed. There must be
// no further queries.
func (in *Ingesters) Close() error {
	in.late.Stop()
	return nil
}

// OneIngester returns Ingesters for a single ingester in the same process.
func OneIngester(ing Ingester) *Ingesters {
	return NewIngesters(IngestersOptions{Peers: func(context.Context) ([]Peer, error) {
		return []Peer{{ID: "local", Domain: "local", Client: ing}}, nil
	}})
}

// all returns all ingesters. It is an error if there are none.
func (in *Ingesters) all(ctx context.Context) ([]Peer, error) {
	list, err := in.o.Peers(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peers.ErrTooFew, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no ingester is in the ring", peers.ErrTooFew)
	}
	return list, nil
}

// from is a response, the L0 packs from which it was read, and the ingester.
type from[T any] struct {
	value T
	packs []ulid.ULID
	id    string
}

// quorum returns all ingesters, and the quorum that a read of a tenant's range needs.
func (in *Ingesters) quorum(ctx context.Context, id tenant.ID, mint, maxt int64) ([]Peer, peers.Quorum, error) {
	q := peers.Quorum{Tolerate: in.o.Tolerate, Key: string(id), HedgeAfter: in.o.HedgeAfter, Final: isFinal, Late: in.late}
	list, err := in.all(ctx)
	if err == nil && in.o.Lost != nil {
		if q.Lost, err = in.o.Lost(ctx, id, mint, maxt); err != nil {
			err = fmt.Errorf("list lost ingesters: %w", err)
		}
	}
	return list, q, err
}

// fanOut sends a request to the ingesters. It returns a quorum of responses, and reports which
// packs they were read from. `drop` releases a response that is not returned. On an error, fanOut
// returns only after all calls have ended: the caller then releases the query's slot and memory,
// while a call to an ingester in this process may still match a regular expression.
func fanOut[T any](
	ctx context.Context, in *Ingesters, id tenant.ID, mint, maxt int64, call func(context.Context, Ingester) (T, []ulid.ULID, error),
	drop func(T),
) ([]T, store.Covered, error) {
	list, q, err := in.quorum(ctx, id, mint, maxt)
	if err != nil {
		return nil, nil, err
	}
	named := make([]peers.Peer[*Peer], len(list))
	for i := range list {
		p := &list[i]
		named[i] = peers.Peer[*Peer]{ID: p.ID, Domain: p.Domain, Unhealthy: p.Unhealthy, Client: p}
	}
	answers, err := peers.Enough(ctx, named, q, func(ctx context.Context, p *Peer) (from[T], error) {
		v, packs, err := call(ctx, p.Client)
		return from[T]{v, packs, p.ID}, err
	}, func(f from[T]) { drop(f.value) })
	if err != nil {
		return nil, nil, err
	}
	var got []T
	served, ids := map[ulid.ULID]bool{}, map[string]bool{}
	for _, a := range answers {
		ids[a.id] = true
		got = append(got, a.value)
		for _, pack := range a.packs {
			served[pack] = true
		}
	}
	noteReaders(ctx, ids)
	return got, func(id ulid.ULID) bool { return served[id] }, nil
}

// isFinal reports whether a request failed for a reason that a request to another ingester would
// not avoid: a limit, or no memory for the response in this process. (If an ingester has no memory,
// it returns another error.)
func isFinal(err error) bool {
	var exceeded *limits.Exceeded
	return errors.As(err, &exceeded) || errors.Is(err, memory.ErrFull) ||
		errors.Is(err, memory.ErrEnded) && !errors.Is(err, memory.ErrEndedElsewhere)
}

// Select implements Recent.
func (in *Ingesters) Select(ctx context.Context, req series.Request) (*series.Selection, store.Covered, error) {
	answers, served, err := fanOut(ctx, in, req.Tenant, req.MinTime, req.MaxTime,
		func(ctx context.Context, ing Ingester) (*series.Selection, []ulid.ULID, error) {
			return ing.Select(ctx, req)
		},
		(*series.Selection).Release)
	if err != nil {
		return nil, nil, err
	}
	out := answers[0]
	for i, a := range answers[1:] {
		out.Hold(a.Release)
		if out.Series, err = series.Merge(out.Series, a.Series, req.MaxSeries); err != nil {
			for _, left := range answers[i+2:] {
				left.Release()
			}
			out.Release()
			return nil, nil, err
		}
	}
	return out, served, nil
}

// LabelNames implements Recent.
func (in *Ingesters) LabelNames(ctx context.Context, req series.Request) ([]string, store.Covered, error) {
	return in.labels(ctx, "", req)
}

// LabelValues implements Recent.
func (in *Ingesters) LabelValues(ctx context.Context, name string, req series.Request) ([]string, store.Covered, error) {
	return in.labels(ctx, name, req)
}

func (in *Ingesters) labels(ctx context.Context, name string, req series.Request) ([]string, store.Covered, error) {
	answers, served, err := fanOut(ctx, in, req.Tenant, req.MinTime, req.MaxTime,
		func(ctx context.Context, ing Ingester) ([]string, []ulid.ULID, error) {
			return ing.Labels(ctx, name, req)
		},
		func([]string) {})
	if err != nil {
		return nil, nil, err
	}
	var out []string
	for _, a := range answers {
		out = mergeSorted(out, a)
	}
	return out, served, nil
}

// Exemplars implements Recent.
func (in *Ingesters) Exemplars(
	ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher,
) ([]exemplar.QueryResult, error) {
	answers, _, err := fanOut(ctx, in, id, mint, maxt,
		func(ctx context.Context, ing Ingester) ([]exemplar.QueryResult, []ulid.ULID, error) {
			out, err := ing.Exemplars(ctx, id, mint, maxt, sets)
			return out, nil, err
		}, func([]exemplar.QueryResult) {})
	if err != nil {
		return nil, err
	}
	var out []exemplar.QueryResult
	for _, a := range answers {
		out = joinExemplars(out, a)
	}
	return out, nil
}

// joinExemplars merges two lists of exemplars by series, without duplicates.
func joinExemplars(a, b []exemplar.QueryResult) []exemplar.QueryResult {
	for _, r := range b {
		i := slices.IndexFunc(a, func(o exemplar.QueryResult) bool { return labels.Equal(o.SeriesLabels, r.SeriesLabels) })
		if i < 0 {
			a = append(a, r)
			continue
		}
		for _, e := range r.Exemplars {
			if !slices.ContainsFunc(a[i].Exemplars, func(o exemplar.Exemplar) bool { return o.Equals(e) }) {
				a[i].Exemplars = append(a[i].Exemplars, e)
			}
		}
		slices.SortStableFunc(a[i].Exemplars, func(x, y exemplar.Exemplar) int { return int(x.Ts - y.Ts) })
	}
	slices.SortFunc(a, func(x, y exemplar.QueryResult) int { return labels.Compare(x.SeriesLabels, y.SeriesLabels) })
	return a
}
