package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/wire"
)

// Ruler is the ruler that the server calls.
type Ruler interface {
	// State returns the state of a tenant's groups that this ruler evaluates, as JSON (package rulestate).
	State(id tenant.ID) ([]byte, error)
	// Wake makes the ruler read the rules of a tenant now.
	Wake(id tenant.ID)
}

// ServeRuler registers a ruler. It must be called before Serve.
func (s *Server) ServeRuler(r Ruler) { wire.RegisterRulerServer(s.grpc, rulerServer{r}) }

type rulerServer struct{ r Ruler }

// State implements wire.RulerServer.
func (s rulerServer) State(in *wire.TenantRequest, out wire.Ruler_StateServer) error {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return err
	}
	text, err := s.r.State(id)
	if err != nil {
		return unavailable(fmt.Errorf("state of rules: %w", err))
	}
	for len(text) > 0 {
		n := min(len(text), partBytes)
		if err := out.Send(&wire.RulerStateResponse{Groups: text[:n]}); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// Wake implements wire.RulerServer.
func (s rulerServer) Wake(_ context.Context, in *wire.TenantRequest) (*wire.Empty, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	s.r.Wake(id)
	return &wire.Empty{}, nil
}

// State returns the state of a tenant's groups that the peer evaluates, as JSON. It charges the request for the
// memory of the text, and of what the caller decodes.
func (p *Peer) State(ctx context.Context, id tenant.ID) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.ruler.State(ctx, &wire.TenantRequest{Tenant: string(id)})
	if err != nil {
		return nil, wire.Error(err)
	}
	h := memory.FromContext(ctx)
	var text []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return nil, wire.Error(err)
		}
		if err := h.Take(decodedState * int64(len(part.Groups))); err != nil {
			return nil, err
		}
		text = append(text, part.Groups...)
	}
}

// decodedState is the memory for the state of rules, as text and decoded, per byte of its text.
const decodedState = 4

// Wake makes the peer's ruler read the rules of a tenant now.
func (p *Peer) Wake(ctx context.Context, id tenant.ID) error {
	_, err := p.ruler.Wake(ctx, &wire.TenantRequest{Tenant: string(id)})
	return wire.Error(err)
}
