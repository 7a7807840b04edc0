package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/prometheus/promql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/wire"
)

// Frontend is the query frontend that the server calls.
type Frontend interface {
	// Query answers a query. The caller must call release when it no longer needs the
	// answer. It returns an error only if the frontend accepts no queries.
	Query(ctx context.Context, r *evaluation.Request) (a *evaluation.Answer, release func(), err error)
	// Serve gives evaluations to a slot of a querier, until the slot or ctx ends.
	Serve(ctx context.Context, slot dispatch.Slot) error
	// Hold waits until a slot is free for a read of a tenant, and holds it until release.
	Hold(ctx context.Context, id tenant.ID, instant bool) (release func(), err error)
	// Draining returns a channel that is closed when the frontend drains.
	Draining() <-chan struct{}
}

// ServeFrontend registers a frontend. It must be called before Serve.
func (s *Server) ServeFrontend(f Frontend) { wire.RegisterFrontendServer(s.grpc, frontendServer{f}) }

type frontendServer struct{ f Frontend }

// Query implements wire.FrontendServer.
func (s frontendServer) Query(in *wire.EvaluationRequest, out wire.Frontend_QueryServer) error {
	r, err := decodeRequest(in)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	// The caller uses another frontend if this one does not respond in time; see Peer.Query.
	if err := out.Send(&wire.EvaluationResponse{}); err != nil {
		return err
	}
	a, release, err := s.f.Query(out.Context(), r)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer release()
	return sendAnswer(r, a, out.Send)
}

// Work implements wire.FrontendServer.
func (s frontendServer) Work(stream wire.Frontend_WorkServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Hello == nil {
		return status.Error(codes.InvalidArgument, "the first message must be a hello")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w := &slot{stream: stream, querier: first.Hello.Instance,
		answers: make(chan *wire.EvaluationResponse), leaving: make(chan struct{}), ended: ctx.Done()}
	go w.receive(cancel)
	err = s.f.Serve(ctx, w)
	if err != nil && stream.Context().Err() == nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

// Hold implements wire.FrontendServer.
func (s frontendServer) Hold(in *wire.HoldRequest, out wire.Frontend_HoldServer) error {
	id, err := tenantOf(in.Tenant)
	if err != nil {
		return err
	}
	if err := out.Send(&wire.Empty{}); err != nil {
		return err
	}
	release, err := s.f.Hold(out.Context(), id, in.Instant)
	if err != nil {
		return status.FromContextError(err).Err()
	}
	defer release()
	if err := out.Send(&wire.Empty{}); err != nil {
		return err
	}
	select {
	case <-out.Context().Done():
	case <-s.f.Draining():
	}
	return nil
}

// Hold waits, like an instant query or a range query, until the frontend holds a slot for a read of a
// tenant. The caller must call release when the read has ended. The error wraps wire.ErrUnavailable
// if the frontend cannot be reached or ended the call, context.Canceled if it did not respond for
// aliveTimeout or ctx was canceled, or wire.ErrRejected if it rejects the tenant or does not know
// the call.
func (p *Peer) Hold(ctx context.Context, id tenant.ID, instant bool) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	hangs := time.AfterFunc(aliveTimeout, cancel)
	defer hangs.Stop()
	stream, err := p.frontend.Hold(ctx, &wire.HoldRequest{Tenant: string(id), Instant: instant})
	if err != nil {
		return nil, wire.Error(err)
	}
	for range 2 {
		if _, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				err = status.Error(codes.Unavailable, "the query frontend ended the call")
			}
			return nil, wire.Error(err)
		}
		hangs.Stop()
	}
	return cancel, nil
}

// slot is a slot of a querier. It implements dispatch.Slot.
type slot struct {
	stream  wire.Frontend_WorkServer
	querier string
	answers chan *wire.EvaluationResponse
	leave   sync.Once
	leaving chan struct{}
	ended   <-chan struct{}
}

// receive passes on messages until the stream ends.
func (w *slot) receive(ended func()) {
	defer ended()
	for {
		m, err := w.stream.Recv()
		if err != nil {
			return
		}
		if m.Leaving {
			w.leave.Do(func() { close(w.leaving) })
		}
		if m.Answer == nil {
			continue
		}
		select {
		case w.answers <- m.Answer:
		case <-w.ended:
			return
		}
	}
}

// Querier implements dispatch.Slot.
func (w *slot) Querier() string { return w.querier }

// Leaving implements dispatch.Slot.
func (w *slot) Leaving() <-chan struct{} { return w.leaving }

// Evaluate implements dispatch.Slot.
func (w *slot) Evaluate(ctx context.Context, r *evaluation.Request) (answer *evaluation.Answer, err error) {
	in, err := encodeRequest(ctx, r)
	if err != nil {
		return &evaluation.Answer{Err: err}, dispatch.ErrSlotBroken
	}
	if err := w.stream.Send(in); err != nil {
		return nil, fmt.Errorf("%w: %w", dispatch.ErrNotBegun, err)
	}
	c := newCollector(r, memory.FromContext(ctx))
	defer func() {
		if err != nil {
			c.drop()
		}
	}()
	begun := !r.Alone // otherwise the querier reports when it begins
	for {
		select {
		case piece := <-w.answers:
			begun = true
			a, err := c.add(piece)
			if err != nil { // the rest of the answer would follow: the slot cannot be used again
				return &evaluation.Answer{Err: querier.Explained(ctx, err)}, dispatch.ErrSlotBroken
			}
			if a != nil {
				return understood(r, a), nil
			}
		case <-w.ended:
			if !begun {
				return nil, dispatch.ErrNotBegun
			}
			return nil, dispatch.ErrQuerierEnded
		case <-ctx.Done():
			return nil, dispatch.ErrSlotBroken
		}
	}
}

// understood returns the answer. If the querier did not apply the switches of the request, or
// ignored its shard, understood returns a failed answer: the evaluation is then repeated on another
// querier, or without shards.
func understood(r *evaluation.Request, a *evaluation.Answer) *evaluation.Answer {
	if r.Shard != nil && a.Err == nil && !a.Sharded {
		return &evaluation.Answer{Err: promql.ErrStorage{Err: evaluation.ErrNotSharded}}
	}
	err := r.CheckSyntax(a)
	if err == nil {
		return a
	}
	err = fmt.Errorf("%w: %w", wire.ErrUnavailable, err)
	return &evaluation.Answer{Err: promql.ErrStorage{Err: err}, Fault: err}
}

// aliveTimeout is how long a frontend may take to send the first, empty message of an answer or of a
// held slot. Without it, a process that hangs would be detected by its connection only after 13 s.
const aliveTimeout = 2 * time.Second

// Query sends a query to a frontend. The error wraps wire.ErrUnavailable if another
// frontend may answer.
func (p *Peer) Query(ctx context.Context, r *evaluation.Request) (answer *evaluation.Answer, err error) {
	in, err := encodeRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	// The call has no deadline, because the request contains it: gRPC would end the call a
	// moment earlier than ctx, with an error of its own instead of that of the query.
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	stream, err := p.frontend.Query(call, in)
	if err != nil {
		return nil, wire.Error(err)
	}
	hangs := time.AfterFunc(aliveTimeout, cancel)
	defer hangs.Stop()
	c := newCollector(r, memory.FromContext(ctx))
	defer func() {
		if err != nil {
			c.drop()
		}
	}()
	if answer, err = receive(ctx, stream, c, hangs); err != nil {
		return answer, err
	}
	if err := r.CheckSyntax(answer); err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrUnavailable, err)
	}
	return answer, nil
}

// receive receives the answer of a frontend. hangs is the timer that ends the call unless the first
// piece arrives in time.
func receive(ctx context.Context, stream wire.Frontend_QueryClient, c *collector, hangs *time.Timer) (*evaluation.Answer, error) {
	for alive := false; ; alive = true {
		piece, err := stream.Recv()
		if !hangs.Stop() && err != nil && ctx.Err() == nil && !alive {
			return nil, fmt.Errorf("%w: the query frontend did not respond within %s", wire.ErrUnavailable, aliveTimeout)
		}
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: the response of the query frontend is incomplete", wire.ErrUnavailable)
		}
		if err != nil {
			return nil, wire.Error(err)
		}
		if a, err := c.add(piece); a != nil || err != nil {
			return a, querier.Explained(ctx, err)
		}
	}
}

// Work is one slot of this process, lent to a frontend.
type Work struct {
	stream   wire.Frontend_WorkClient
	ctx      context.Context //nolint:containedctx // of the stream
	cancel   context.CancelFunc
	requests chan *wire.EvaluationRequest

	mu sync.Mutex // held while sending
}

// Work lends a slot of the querier instance to a frontend. The caller must call Close.
func (p *Peer) Work(ctx context.Context, instance string) (*Work, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := p.frontend.Work(ctx)
	if err == nil {
		err = stream.Send(&wire.WorkMessage{Hello: &wire.WorkHello{Instance: instance}})
	}
	if err != nil {
		cancel()
		return nil, wire.Error(err)
	}
	w := &Work{stream: stream, ctx: ctx, cancel: cancel, requests: make(chan *wire.EvaluationRequest)}
	go w.receive()
	return w, nil
}

// receive passes on requests until the stream ends. It also runs during an evaluation,
// because gRPC detects only in a receive that the frontend has ended the stream.
func (w *Work) receive() {
	defer w.cancel()
	for {
		in, err := w.stream.Recv()
		if err != nil {
			return
		}
		select {
		case w.requests <- in:
		case <-w.ctx.Done():
			return
		}
	}
}

// errWorkEnded is returned after the frontend has ended the stream.
var errWorkEnded = errors.New("the query frontend has ended the stream")

// Next returns the next evaluation. It returns an error when the stream has ended, or if the
// request is invalid.
func (w *Work) Next() (*evaluation.Request, error) {
	select {
	case in := <-w.requests:
		return decodeRequest(in)
	case <-w.ctx.Done():
		return nil, errWorkEnded
	}
}

// Context returns the context of the stream, which also ends when the frontend cancels the evaluation.
func (w *Work) Context() context.Context { return w.ctx }

// Answer sends the answer of the last evaluation.
func (w *Work) Answer(r *evaluation.Request, a *evaluation.Answer) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return sendAnswer(r, a, func(piece *wire.EvaluationResponse) error {
		return w.stream.Send(&wire.WorkMessage{Answer: piece})
	})
}

// Began tells the frontend that the evaluation begins, by a piece of the answer without
// series.
func (w *Work) Began() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stream.Send(&wire.WorkMessage{Answer: &wire.EvaluationResponse{}})
}

// Leave tells the frontend that the slot takes no more evaluations after the current one.
func (w *Work) Leave() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stream.Send(&wire.WorkMessage{Leaving: true})
}

// Close ends the slot.
func (w *Work) Close() { w.cancel() }
