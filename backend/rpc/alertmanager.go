package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/wire"
)

// Alertmanager is the Alertmanager that the server calls.
type Alertmanager interface {
	// Serve answers a request of a tenant, with the whole body in one message. It starts the tenant's Alertmanager
	// if necessary, and returns an error if it cannot run in this process.
	Serve(ctx context.Context, id tenant.ID, r *wire.AlertmanagerRequest) (*wire.AlertmanagerResponse, error)
	// Changed makes the Alertmanager read the configuration of a tenant now.
	Changed(ctx context.Context, id tenant.ID) error
	// Told remembers a notification that another replica has sent; see package claims.
	Told(key, entry string, flushed int64)
}

// maxAlertmanagerBody is the maximum size of a request to an Alertmanager that one process sends to another, in bytes.
const maxAlertmanagerBody = 64 << 20

// ServeAlertmanager registers an Alertmanager. It must be called before Serve.
func (s *Server) ServeAlertmanager(a Alertmanager) {
	wire.RegisterAlertmanagerServer(s.grpc, alertmanagerServer{a})
}

type alertmanagerServer struct{ a Alertmanager }

// Serve implements wire.AlertmanagerServer.
func (s alertmanagerServer) Serve(stream wire.Alertmanager_ServeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id, err := tenantOf(first.Tenant)
	if err != nil {
		return err
	}
	r := first
	for {
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(r.Body)+len(next.Body) > maxAlertmanagerBody {
			return unavailable(fmt.Errorf("the request to the Alertmanager has more than %d bytes", maxAlertmanagerBody))
		}
		r.Body = append(r.Body, next.Body...)
	}
	out, err := s.a.Serve(stream.Context(), id, r)
	if err != nil {
		return unavailable(err)
	}
	part := &wire.AlertmanagerResponse{Code: out.Code, ContentType: out.ContentType}
	for rest := out.Body; ; part = new(wire.AlertmanagerResponse) {
		n := min(len(rest), partBytes)
		part.Body, rest = rest[:n], rest[n:]
		if err := stream.Send(part); err != nil || len(rest) == 0 {
			return err
		}
	}
}

// Changed implements wire.AlertmanagerServer.
func (s alertmanagerServer) Changed(ctx context.Context, in *wire.TenantRequest) (*wire.Empty, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	if err := s.a.Changed(ctx, id); err != nil {
		return nil, unavailable(err)
	}
	return &wire.Empty{}, nil
}

// Told implements wire.AlertmanagerServer.
func (s alertmanagerServer) Told(_ context.Context, in *wire.ToldRequest) (*wire.Empty, error) {
	s.a.Told(string(in.Key), string(in.Entry), in.Flushed)
	return &wire.Empty{}, nil
}

func (p *Peer) alertmanager() wire.AlertmanagerClient { return wire.NewAlertmanagerClient(p.conn) }

// Alertmanager sends a request to the Alertmanager of the peer.
func (p *Peer) Alertmanager(ctx context.Context, id tenant.ID, r *wire.AlertmanagerRequest) (*wire.AlertmanagerResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.alertmanager().Serve(ctx)
	if err != nil {
		return nil, wire.Error(err)
	}
	part := &wire.AlertmanagerRequest{Tenant: string(id), Method: r.Method, Path: r.Path, ContentType: r.ContentType}
	for rest := r.Body; ; part = new(wire.AlertmanagerRequest) {
		n := min(len(rest), partBytes)
		part.Body, rest = rest[:n], rest[n:]
		if err := stream.Send(part); err != nil && !errors.Is(err, io.EOF) { // Recv returns the error of a stream that has ended
			return nil, wire.Error(err)
		}
		if len(rest) == 0 {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, wire.Error(err)
	}
	return answered(stream)
}

// answered joins the messages of a stream to the response.
func answered(stream wire.Alertmanager_ServeClient) (*wire.AlertmanagerResponse, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, wire.Error(err)
	}
	out := first
	for {
		next, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, wire.Error(err)
		}
		out.Body = append(out.Body, next.Body...)
	}
}

// AlertmanagerChanged makes the Alertmanager of the peer read the configuration of a tenant now.
func (p *Peer) AlertmanagerChanged(ctx context.Context, id tenant.ID) error {
	_, err := p.alertmanager().Changed(ctx, &wire.TenantRequest{Tenant: string(id)})
	return wire.Error(err)
}

// AlertmanagerTold tells the Alertmanager of the peer about a notification that was sent; see package claims.
func (p *Peer) AlertmanagerTold(ctx context.Context, id tenant.ID, key, entry string, flushed int64) error {
	_, err := p.alertmanager().Told(ctx, &wire.ToldRequest{Tenant: string(id), Key: []byte(key), Entry: []byte(entry), Flushed: flushed})
	return wire.Error(err)
}
