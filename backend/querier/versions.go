package querier

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	g.Go(func() (err error) {
		out.Ingesters, err = recent.versions(ctx, id, mint, maxt)
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

// versionsTimeout is how long all ingesters have to answer. A query does not wait longer for
// what only decides whether kept results can be used.
const versionsTimeout = 500 * time.Millisecond

var errNotAll = errors.New("versions of all ingesters are needed, and some are unavailable or lost")

// versions asks all ingesters for their versions. It fails if one does not answer, or if a
// domain counts as lost: two domains of three would not do. A sample that one domain had
// before the first look may be acknowledged with a third one after a read that asked the
// second and the third; a look at the first and the second would show no change.
func (in *Ingesters) versions(ctx context.Context, id tenant.ID, mint, maxt int64) ([]series.IngesterVersion, error) {
	list, q, err := in.quorum(ctx, id, mint, maxt)
	if err != nil {
		return nil, err
	}
	if len(q.Lost) > 0 || slices.ContainsFunc(list, func(p Peer) bool { return p.Unhealthy }) ||
		peers.Domains(list) < peers.Needed(list, q) { // the ring of a process that has just started may be incomplete
		return nil, errNotAll
	}
	ctx, cancel := context.WithTimeout(ctx, versionsTimeout)
	defer cancel()
	named := make([]peers.Peer[*Peer], len(list))
	for i := range list {
		p := &list[i]
		named[i] = peers.Peer[*Peer]{ID: p.ID, Domain: p.Domain, Client: p}
	}
	return peers.All(ctx, named, func(ctx context.Context, p *Peer) (series.IngesterVersion, error) {
		v, err := p.Client.Version(ctx, id)
		v.Instance = p.ID // by which the ring knows it
		return v, err
	})
}
