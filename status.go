package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// processStatus is the status of a process.
type processStatus struct {
	Instance  string            `json:"instance"`
	Error     string            `json:"error,omitempty"` // why the status of the process could not be read
	Ingester  *ingester.Stats   `json:"ingester,omitempty"`
	Compactor *compactor.Status `json:"compactor,omitempty"`
	Queries   []active.Query    `json:"queries,omitempty"` // queries of tenants in progress, the oldest first
}

func (b *backend) ingesterStatus(s *processStatus) {
	of := b.ingester.Stats()
	s.Ingester = &of
}

func (b *backend) compactorStatus(s *processStatus) {
	of := b.compactor.Status()
	s.Compactor = &of
}

func (b *backend) queriesStatus(s *processStatus) { s.Queries = b.api.Active.List() }

func (b *backend) ownStatus() processStatus {
	s := processStatus{Instance: b.id()}
	for _, r := range b.roles {
		if r.status != nil {
			r.status(b, &s)
		}
	}
	return s
}

// clusterStatus is the status on the operator page.
type clusterStatus struct {
	Processes []processStatus   `json:"processes"` // those that have a status; see role.status
	Members   []operator.Member `json:"members,omitempty"`
	RingError string            `json:"ringError,omitempty"`
	// Losses are windows with samples that are lost or that only lost ingesters may have had.
	Losses []operator.Loss `json:"losses,omitempty"`
}

// statusTimeout is the timeout for reading the status of all processes.
const statusTimeout = 5 * time.Second

// Status implements operator.Backend: it reads the status of all processes that have one.
func (o operations) Status(ctx context.Context) (json.RawMessage, error) {
	var status clusterStatus
	losses, err := o.lostIngesters(ctx)
	if o.b.cluster == nil {
		status.Processes = []processStatus{o.b.ownStatus()}
	} else {
		status = o.b.cluster.status(ctx)
	}
	for _, p := range status.Processes {
		if p.Ingester != nil {
			losses = append(losses, logLosses(*p.Ingester)...)
		}
	}
	if status.Losses = losses; err != nil {
		status.RingError = strings.TrimPrefix(status.RingError+"; losses could not be read: "+err.Error(), "; ")
	}
	return json.Marshal(status)
}

func (m *membership) status(ctx context.Context) clusterStatus {
	out := clusterStatus{Processes: []processStatus{}}
	var list []peers.Peer[*rpc.Peer]
	r, err := m.members.Ring(ctx)
	if err == nil {
		out.Members = m.list(r)
		list, err = m.withStatus(r)
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
			return s, fmt.Errorf("decode status: %w", err)
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

// withStatus returns clients of the ring's members that have a status.
func (m *membership) withStatus(r *ring.Ring) ([]peers.Peer[*rpc.Peer], error) {
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
