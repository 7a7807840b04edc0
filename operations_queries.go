package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// EndQuery implements operator.Backend.
func (o operations) EndQuery(ctx context.Context, id string) (json.RawMessage, error) {
	if m := o.b.cluster; m != nil {
		return m.endQuery(ctx, id)
	}
	return called(o).EndQuery(id)
}

// endQuery asks all processes that may run a query to end it. If none has it, endQuery returns the
// errors of the processes that did not respond, because one of them may have it.
func (m *membership) endQuery(ctx context.Context, id string) (json.RawMessage, error) {
	r, err := m.members.Ring(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: read the ring: %w", operator.ErrUnavailable, err)
	}
	list, err := m.withStatus(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var failed error
	for _, reply := range peers.Each(ctx, list, func(ctx context.Context, p *rpc.Peer) ([]byte, error) { return p.EndQuery(ctx, id) }) {
		switch {
		case reply.Err != nil:
			failed = errors.Join(failed, fmt.Errorf("%w: %s: %w", operator.ErrUnavailable, reply.ID, reply.Err))
		case len(reply.Value) > 0:
			return reply.Value, nil
		}
	}
	return nil, failed
}
