package querier

import (
	"context"
	"fmt"

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
	g.Go(func() (err error) {
		out.Domains, out.Enough, err = recent.versions(ctx, id, mint, maxt)
		return err
	})
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

// versions asks the ingesters for their versions, as many as a read asks. It returns those
// of domains that are complete and not lost, and how many of these a read needs.
func (in *Ingesters) versions(
	ctx context.Context, id tenant.ID, mint, maxt int64,
) (domains [][]series.IngesterVersion, enough int, err error) {
	list, q, err := in.quorum(ctx, id, mint, maxt)
	if err != nil {
		return nil, 0, err
	}
	named := make([]peers.Peer[*Peer], len(list))
	for i := range list {
		p := &list[i]
		named[i] = peers.Peer[*Peer]{ID: p.ID, Domain: p.Domain, Unhealthy: p.Unhealthy, Client: p}
	}
	got, err := peers.Enough(ctx, named, q, func(ctx context.Context, p *Peer) (series.IngesterVersion, error) {
		v, err := p.Client.Version(ctx, id)
		v.Instance = p.ID // by which the ring knows it
		return v, err
	}, func(series.IngesterVersion) {})
	if err != nil {
		return nil, 0, err
	}
	answers := map[string]series.IngesterVersion{}
	for _, v := range got {
		answers[v.Instance] = v
	}
	for _, members := range peers.Complete(list, q, func(id string) bool { _, ok := answers[id]; return ok }) {
		var versions []series.IngesterVersion
		for _, id := range members {
			versions = append(versions, answers[id])
		}
		domains = append(domains, versions)
	}
	return domains, peers.Needed(list, q), nil
}
