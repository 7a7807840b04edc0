package rpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/wire"
)

// handOverBytes is the memory in bytes per series of a message: its hash and seconds
// encoded, decoded and sorted.
const handOverBytes = 48

func handOverError(err error) error {
	if errors.Is(err, ingester.ErrHandOver) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return unavailable(err)
}

// ReserveSeries reserves series that another ingester hands over.
func (s *ingesterServer) ReserveSeries(ctx context.Context, in *wire.ActiveSeries) (*wire.Empty, error) {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return nil, err
	}
	ctx, h := s.hold(ctx, memory.Request{Tenant: id, Write: true, Internal: true})
	defer h.Close()
	if err := h.Take(handOverBytes * int64(len(in.Hashes))); err != nil {
		return nil, unavailable(err)
	}
	a := &ingester.ActiveSeries{Tenant: id, Bytes: in.Bytes, Hashes: in.Hashes, Seconds: in.Seconds}
	if err := s.ing.ReserveSeries(ctx, a); err != nil {
		return nil, handOverError(err)
	}
	return &wire.Empty{}, nil
}

// Active sends the active series whose replica sets will include an ingester that joins.
func (s *ingesterServer) Active(in *wire.ActiveSeriesRequest, out wire.Ingester_ActiveServer) error {
	ctx, h := s.hold(out.Context(), memory.Request{Tenant: tenant.Self, Internal: true})
	defer h.Close()
	if err := h.Take(handOverBytes * ingester.HandOverSlice); err != nil {
		return unavailable(err)
	}
	return handOverError(s.ing.ActiveSeries(ctx, in.Instance, func(a *ingester.ActiveSeries) error {
		return out.Send(&wire.ActiveSeries{Tenant: string(a.Tenant), Bytes: a.Bytes, Hashes: a.Hashes, Seconds: a.Seconds})
	}))
}

// ReserveSeries hands active series over to the ingester, which reserves them.
func (p *Peer) ReserveSeries(ctx context.Context, a *ingester.ActiveSeries) error {
	_, err := p.ingester.ReserveSeries(ctx, &wire.ActiveSeries{Tenant: string(a.Tenant), Bytes: a.Bytes, Hashes: a.Hashes, Seconds: a.Seconds})
	return p.note(ctx, err)
}

// ActiveSeries calls fn for slices of the ingester's active series whose replica sets
// will include an instance once it is ACTIVE.
func (p *Peer) ActiveSeries(ctx context.Context, instance string, fn func(*ingester.ActiveSeries) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.ingester.Active(ctx, &wire.ActiveSeriesRequest{Instance: instance})
	if err != nil {
		return p.note(ctx, err)
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return p.note(ctx, nil)
		}
		if err != nil {
			return p.note(ctx, err)
		}
		id, err := tenant.ParseID(part.Tenant)
		if err != nil {
			return err
		}
		if err := fn(&ingester.ActiveSeries{Tenant: id, Bytes: part.Bytes, Hashes: part.Hashes, Seconds: part.Seconds}); err != nil {
			return err
		}
	}
}
