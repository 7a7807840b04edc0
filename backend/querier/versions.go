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

// StoreVersions reads the version of the long-term store's samples of a tenant in the
// days of a range (Unix milliseconds).
type StoreVersions interface {
	Version(ctx context.Context, id tenant.ID, mint, maxt int64) (series.StoreVersion, error)
}

// Versions reads the versions of all that answers to a tenant's queries of a time range
// depend on.
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

// versionsTimeout is how long ingesters have to answer. A query does not wait longer for what
// only decides whether kept results can be used.
const versionsTimeout = 500 * time.Millisecond

var (
	errVersionsLost = errors.New("samples were lost with an ingester")
	errTooFewZones  = fmt.Errorf("%w: versions of too few ingesters", peers.ErrTooFew)
)

// versions asks all healthy ingesters for their versions. It fails if those that answer are
// not all of enough domains, or if a domain counts as lost.
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
			r.Value.Instance, r.Value.Domain = asked[i].ID, asked[i].Domain // by which the ring knows it
			out.Ingesters = append(out.Ingesters, r.Value)
		}
	}
	if !out.Confirms(out.Ingesters, true) {
		return errTooFewZones
	}
	return nil
}
