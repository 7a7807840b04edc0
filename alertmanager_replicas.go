package main

import (
	"context"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/api/alertsapi"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
)

// askReplicas sends a request to all replicas of the tenant's Alertmanager, and returns their replies in the order of
// their positions.
func (b *backend) askReplicas(ctx context.Context, t tenant.ID, r *alertmanager.Request) ([]alertsapi.Reply, error) {
	if b.cluster == nil {
		out, err := b.alerting.Serve(ctx, t, r)
		return []alertsapi.Reply{{Response: out, Err: err}}, nil
	}
	list, err := b.replicasOf(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errNoReplica
	}
	var members []peers.Peer[*ring.Instance]
	for i := range list {
		members = append(members, peers.Peer[*ring.Instance]{ID: list[i].ID, Client: &list[i]})
	}
	var replies []alertsapi.Reply
	for _, reply := range peers.Each(ctx, members, func(ctx context.Context, in *ring.Instance) (*alertmanager.Response, error) {
		return b.callReplica(ctx, t, r, in)
	}) {
		replies = append(replies, alertsapi.Reply{Response: reply.Value, Err: reply.Err})
	}
	return replies, nil
}
