package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// processStatus is what one process tells of itself.
type processStatus struct {
	Instance  string            `json:"instance"`
	Error     string            `json:"error,omitempty"` // why it could not be asked
	Ingester  *ingester.Stats   `json:"ingester,omitempty"`
	Compactor *compactor.Status `json:"compactor,omitempty"`
}

func (b *backend) ingesterStatus(s *processStatus) {
	of := b.ingester.Stats()
	s.Ingester = &of
}

func (b *backend) compactorStatus(s *processStatus) {
	of := b.compactor.Status()
	s.Compactor = &of
}

func (b *backend) ownStatus() processStatus {
	s := processStatus{Instance: b.id()}
	for _, r := range b.roles {
		if r.status != nil {
			r.status(b, &s)
		}
	}
	return s
}

// clusterStatus is what the operator's page shows.
type clusterStatus struct {
	Processes []processStatus   `json:"processes"` // with a role that has something to tell
	Members   []operator.Member `json:"members,omitempty"`
	RingError string            `json:"ringError,omitempty"`
}

// statusTimeout bounds how long a process may take to tell its status.
const statusTimeout = 5 * time.Second

// Status implements operator.Backend: it asks all processes that have something to
// tell.
func (o operations) Status(ctx context.Context) (json.RawMessage, error) {
	if o.b.cluster == nil {
		return json.Marshal(clusterStatus{Processes: []processStatus{o.b.ownStatus()}})
	}
	return json.Marshal(o.b.cluster.status(ctx))
}

func (m *membership) status(ctx context.Context) clusterStatus {
	out := clusterStatus{Processes: []processStatus{}}
	var list []peers.Peer[*rpc.Peer]
	r, err := m.members.Ring(ctx)
	if err == nil {
		out.Members = m.list(r)
		list, err = m.telling(r)
	}
	if err != nil {
		out.RingError = err.Error()
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, reply := range peers.Each(ctx, list, func(ctx context.Context, p *rpc.Peer) (s processStatus, err error) {
		text, err := p.Status(ctx)
		if err != nil {
			return s, err
		}
		if err := json.Unmarshal(text, &s); err != nil {
			return s, fmt.Errorf("its status cannot be decoded: %w", err)
		}
		return s, nil
	}) {
		s := reply.Value
		s.Instance = reply.ID
		if reply.Err != nil {
			s.Error = reply.Err.Error()
		}
		out.Processes = append(out.Processes, s)
	}
	return out
}

// telling are the members with a role that has a status.
func (m *membership) telling(r *ring.Ring) ([]peers.Peer[*rpc.Peer], error) {
	has := map[string]bool{}
	for _, r := range roles() {
		has[string(r.name)] = r.status != nil
	}
	var out []peers.Peer[*rpc.Peer]
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if !slices.ContainsFunc(in.Roles, func(role string) bool { return has[role] }) {
			continue
		}
		p, err := m.pool.Peer(in.Addr)
		if err != nil {
			return nil, err
		}
		out = append(out, peers.Peer[*rpc.Peer]{ID: in.ID, Client: p})
	}
	return out, nil
}
