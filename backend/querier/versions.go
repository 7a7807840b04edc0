package querier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/series"
)

// StoreVersions reads the version of a tenant's samples in the long-term store, for the days of a
// range (Unix milliseconds).
type StoreVersions interface {
	Version(ctx context.Context, id tenant.ID, mint, maxt int64) (series.StoreVersion, error)
}

// Versions reads the versions of all data on which answers to a tenant's queries of a time range
// depend.
func Versions(ctx context.Context, recent *Ingesters, long StoreVersions, id tenant.ID, mint, maxt int64) (series.Versions, error) {
	var out series.Versions
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return recent.versions(ctx, id, mint, maxt, &out) }) // sets all but Store
	var store series.StoreVersion
	g.Go(func() (err error) {
		store, err = long.Version(ctx, id, mint, maxt)
		return err
	})
	if err := g.Wait(); err != nil {
		return series.Versions{}, fmt.Errorf("read versions: %w", err)
	}
	out.Store = store
	return out, nil
}

// versionsTimeout is the timeout of requests for versions. A query does not wait longer, because
// the versions only decide whether cached results can be used.
const versionsTimeout = 500 * time.Millisecond

var (
	errVersionsLost = errors.New("samples were lost with an ingester")
	errTooFewZones  = fmt.Errorf("%w to compare the versions of their data", peers.ErrTooFew)
)

// versions requests the versions of all healthy ingesters. It fails if a domain counts as lost, or
// if there are too few domains of which all ingesters respond.
func (in *Ingesters) versions(ctx context.Context, id tenant.ID, mint, maxt int64, out *series.Versions) error {
	list, q, err := in.quorum(ctx, id, mint, maxt)
	if err != nil {
		return err
	}
	if len(q.Lost) > 0 {
		return errVersionsLost
	}
	ctx, cancel := context.WithTimeout(ctx, versionsTimeout)
	defer cancel()
	out.Needed, out.Domains = peers.Needed(list, q), map[string]int{}
	var asked []peers.Peer[Ingester]
	for _, p := range list {
		out.Domains[p.Domain]++
		if !p.Unhealthy {
			asked = append(asked, p)
		}
	}
	replies := peers.Each(ctx, asked, func(ctx context.Context, ing Ingester) (series.IngesterVersion, error) { return ing.Version(ctx, id) })
	for i, r := range replies {
		if r.Err == nil {
			r.Value.Instance, r.Value.Domain = asked[i].ID, asked[i].Domain // the names in the ring
			out.Ingesters = append(out.Ingesters, r.Value)
		}
	}
	if !out.Confirms(out.Ingesters, true) {
		return errTooFewZones
	}
	return nil
}
