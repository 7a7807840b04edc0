package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/wire"
)

// Compactor is the compactor that the server calls.
type Compactor interface {
	Compact(ctx context.Context, which compactor.Which) (compactor.Report, error)
	ExpireAll(ctx context.Context) error
}

// Operator runs operators' commands in this process.
type Operator interface {
	// Leave removes this process's ingester from the ring, and with `wait` returns when that
	// is complete. The error wraps ErrConflict if the ingester may not leave.
	Leave(ctx context.Context, wait bool) error
	// AcceptLoss lets this process's ingester serve queries of a UTC day again although
	// samples of that day were lost with its log. It returns the number of losses.
	AcceptLoss(day int64) (int, error)
	// Status returns the status of this process for the operator page, as JSON.
	Status(ctx context.Context) ([]byte, error)
	// EndQuery ends a query that this process works on, and returns it as JSON; nil if it
	// has no such query.
	EndQuery(id string) ([]byte, error)
}

// ErrConflict is returned for a command that the state of the process does not allow.
var ErrConflict = errors.New("the process rejected the command")

// ServeOperator registers operators' commands. It must be called before Serve.
func (s *Server) ServeOperator(o Operator) { wire.RegisterOperatorServer(s.grpc, operatorServer{o}) }

type operatorServer struct{ o Operator }

func (s operatorServer) Leave(ctx context.Context, in *wire.LeaveRequest) (*wire.Empty, error) {
	err := s.o.Leave(ctx, in.Wait)
	if errors.Is(err, ErrConflict) {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("leave the ring: %w", err))
	}
	return &wire.Empty{}, nil
}

func (s operatorServer) AcceptLoss(_ context.Context, in *wire.AcceptLossRequest) (*wire.AcceptLossResponse, error) {
	n, err := s.o.AcceptLoss(in.Day)
	if err != nil {
		return nil, unavailable(fmt.Errorf("accept losses: %w", err))
	}
	return &wire.AcceptLossResponse{Accepted: int64(n)}, nil
}

func (s operatorServer) Status(ctx context.Context, _ *wire.Empty) (*wire.StatusResponse, error) {
	text, err := s.o.Status(ctx)
	if err != nil {
		return nil, unavailable(fmt.Errorf("status: %w", err))
	}
	return &wire.StatusResponse{Status: text}, nil
}

func (s operatorServer) EndQuery(_ context.Context, in *wire.EndQueryRequest) (*wire.EndQueryResponse, error) {
	query, err := s.o.EndQuery(in.Id)
	if err != nil {
		return nil, unavailable(fmt.Errorf("end a query: %w", err))
	}
	return &wire.EndQueryResponse{Query: query}, nil
}

type compactorServer struct{ c Compactor }

func (s compactorServer) Compact(ctx context.Context, in *wire.CompactRequest) (*wire.CompactResponse, error) {
	r, err := s.c.Compact(ctx, compactor.All)
	if err == nil && in.ExpireAll {
		err = s.c.ExpireAll(ctx)
	}
	if err != nil {
		return nil, wire.Status(errors.Join(errors.New("compaction failed"), err))
	}
	return &wire.CompactResponse{Days: int64(r.Days), Published: int64(r.Published), Series: r.Series, Samples: r.Samples}, nil
}

// Compact makes a compactor compact all uploaded packs, and with expireAll then delete
// all days beyond retention.
func (p *Peer) Compact(ctx context.Context, expireAll bool) (compactor.Report, error) {
	resp, err := p.compactor.Compact(ctx, &wire.CompactRequest{ExpireAll: expireAll})
	if err = p.note(ctx, err); err != nil {
		return compactor.Report{}, err
	}
	return compactor.Report{Days: int(resp.Days), Published: int(resp.Published), Series: resp.Series, Samples: resp.Samples}, nil
}

// Leave removes an ingester from the ring; see Operator.
func (p *Peer) Leave(ctx context.Context, wait bool) error {
	_, err := wire.NewOperatorClient(p.conn).Leave(ctx, &wire.LeaveRequest{Wait: wait})
	if s, ok := status.FromError(err); ok && s.Code() == codes.FailedPrecondition {
		return fmt.Errorf("%w: %s", ErrConflict, s.Message())
	}
	return p.note(ctx, err)
}

// AcceptLoss lets an ingester serve queries of a day again; see Operator.
func (p *Peer) AcceptLoss(ctx context.Context, day int64) (int, error) {
	resp, err := wire.NewOperatorClient(p.conn).AcceptLoss(ctx, &wire.AcceptLossRequest{Day: day})
	if err = p.note(ctx, err); err != nil {
		return 0, err
	}
	return int(resp.Accepted), nil
}

// Status returns the status of a process for the operator page, as JSON.
func (p *Peer) Status(ctx context.Context) ([]byte, error) {
	resp, err := wire.NewOperatorClient(p.conn).Status(ctx, &wire.Empty{})
	if err = p.note(ctx, err); err != nil {
		return nil, err
	}
	return resp.Status, nil
}

// EndQuery ends a query that a process works on; see Operator.
func (p *Peer) EndQuery(ctx context.Context, id string) ([]byte, error) {
	resp, err := wire.NewOperatorClient(p.conn).EndQuery(ctx, &wire.EndQueryRequest{Id: id})
	if err = p.note(ctx, err); err != nil {
		return nil, err
	}
	return resp.Query, nil
}
