package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/worker"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/wire"
)

// slots is a Frontend that sends the slots that it is lent to a channel.
type slots struct {
	draining bool
	list     chan dispatch.Slot
	end      chan error // ends Serve
	released chan struct{}
	drained  chan struct{}
}

func (s *slots) Query(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, func(), error) {
	if s.draining {
		return nil, nil, errors.New("query frontend is stopping")
	}
	if r.Text == "hang" {
		<-ctx.Done()
		return &evaluation.Answer{Err: promql.ErrQueryCanceled("x")}, func() { close(s.released) }, nil
	}
	if applied, ok := strings.CutPrefix(r.Text, "applied "); ok {
		return &evaluation.Answer{Value: promql.String{V: "x"}, Syntax: applied}, func() {}, nil
	}
	if r.Text == "vector" {
		return &evaluation.Answer{Value: vector()}, func() {}, nil
	}
	return &evaluation.Answer{Value: promql.String{V: r.Text}}, func() { close(s.released) }, nil
}

func (s *slots) Serve(ctx context.Context, slot dispatch.Slot) error {
	s.list <- slot
	select {
	case err := <-s.end:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *slots) Hold(ctx context.Context, id tenant.ID, instant bool) (func(), error) {
	if !instant {
		return nil, errors.New("the kind of the read was not sent")
	}
	if id == "waits" {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return func() { close(s.released) }, nil
}

func (s *slots) Draining() <-chan struct{} { return s.drained }

func newSlots() *slots {
	return &slots{list: make(chan dispatch.Slot, 16), end: make(chan error), released: make(chan struct{}), drained: make(chan struct{})}
}

// serveFrontend runs a server with a frontend and returns a client. `stop` kills the server.
func serveFrontend(t *testing.T, f Frontend) (p *Peer, stop func()) {
	t.Helper()
	return serveCalls(t, func(s *Server) { s.ServeFrontend(f) })
}

// serveCalls runs a server with the calls that register adds.
func serveCalls(t *testing.T, register func(*Server)) (p *Peer, stop func()) {
	t.Helper()
	m := member(t, secret, cluster.TLSFiles{})
	s := NewServer(m, nil, nil, nil)
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	pool := NewPool(m)
	if p, err = pool.Peer(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			ended, cancel := context.WithCancel(ctx)
			cancel()
			s.Stop(ended)
			<-done
		})
	}
	t.Cleanup(func() { _ = pool.Close(); stop() })
	return p, stop
}

func TestQuery(t *testing.T) {
	f := newSlots()
	p, stop := serveFrontend(t, f)
	r := exampleRequest()
	r.Part, r.Times.Step, r.Text = nil, 0, "x"
	a, err := p.Query(ctx, r)
	if err != nil || a.Value.(promql.String).V != "x" {
		t.Fatalf("answer %v, %v", a, err)
	}
	<-f.released

	f.released = make(chan struct{})
	r.Text = "hang"
	canceled, cancel := context.WithCancel(ctx)
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := p.Query(canceled, r); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	<-f.released

	f.draining = true
	if _, err := p.Query(ctx, r); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("draining: %v", err)
	}
	r.Access.Tenant = "a/b"
	if _, err := p.Query(ctx, r); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("an invalid tenant: %v", err)
	}
	stop()
	if _, err := p.Query(ctx, r); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("a frontend that is not there: %v", err)
	}
}

// TestOtherSwitches checks that an answer is not used if the process did not apply a switch of the
// tenant, and that its error makes the caller use another process.
func TestOtherSwitches(t *testing.T) {
	f := newSlots()
	p, _ := serveFrontend(t, f)
	stream, err := p.Work(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	slot := <-f.list
	const late = "promql_delayed_name_removal"
	for _, tt := range []struct {
		on      bool
		applied string
		used    bool
	}{{false, "", true}, {true, late, true}, {true, "", false}, {false, late, false}, {true, late + ",promql_x", false}} {
		r := exampleRequest()
		r.Part, r.Times.Step, r.Text = nil, 0, "applied "+tt.applied
		r.Limits.PromQLDelayedNameRemoval = tt.on
		a, err := p.Query(ctx, r)
		if (err == nil && a.Value != nil) != tt.used || err != nil && !errors.Is(err, wire.ErrUnavailable) {
			t.Errorf("a home that applied %q, switched on %v: %v, %v", tt.applied, tt.on, a, err)
		}
		go func() {
			if r, err := stream.Next(); err == nil {
				_ = stream.Answer(r, &evaluation.Answer{Value: promql.String{V: "x"}, Syntax: tt.applied})
			}
		}()
		a, err = slot.Evaluate(ctx, r)
		var unreadable promql.ErrStorage
		if err != nil || (a.Value != nil) != tt.used || !tt.used && (!errors.As(a.Err, &unreadable) || a.Fault == nil) {
			t.Errorf("a querier that applied %q, switched on %v: %+v, %v", tt.applied, tt.on, a, err)
		}
	}
}

// TestHoldSlot checks that a slot is held until the caller releases it, its context ends, or the
// frontend drains.
func TestHoldSlot(t *testing.T) {
	for _, end := range []string{"release", "canceled", "drained"} {
		f := newSlots()
		p, _ := serveFrontend(t, f)
		own, cancel := context.WithCancel(ctx)
		release, err := p.Hold(own, "acme", true)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.released:
			t.Errorf("%s: released at once", end)
		default:
		}
		switch end {
		case "release":
			release()
		case "canceled":
			cancel()
		case "drained":
			close(f.drained)
		}
		<-f.released
		release()
		cancel()
	}
	f := newSlots()
	p, stop := serveFrontend(t, f)
	own, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := p.Hold(own, "waits", true); err == nil {
		t.Error("no error for a read whose deadline has passed")
	}
	if _, err := p.Hold(ctx, "../x", true); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("an invalid tenant: %v", err)
	}
	stop()
	if _, err := p.Hold(ctx, "acme", true); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("a frontend that has stopped: %v", err)
	}
}

// TestNotSharded checks that the answer of a querier that ignores a shard is not used.
func TestNotSharded(t *testing.T) {
	f := newSlots()
	p, _ := serveFrontend(t, f)
	stream, err := p.Work(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	slot := <-f.list
	for _, sharded := range []bool{true, false} {
		r := exampleRequest()
		r.Shard = &shard.Shard{Of: 2}
		go func() {
			if r, err := stream.Next(); err == nil {
				_ = stream.Answer(r, &evaluation.Answer{Value: promql.Matrix{}, Sharded: sharded})
			}
		}()
		a, err := slot.Evaluate(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		var unreadable promql.ErrStorage
		rejected := errors.As(a.Err, &unreadable) && errors.Is(unreadable.Err, evaluation.ErrNotSharded)
		if rejected == sharded || (a.Value != nil) != sharded || a.Fault != nil {
			t.Errorf("sharded %v: %+v", sharded, a)
		}
	}
}

// TestQueryDeadline checks that a call does not end before the context of the query: the caller's
// response depends on why its context ended.
func TestQueryDeadline(t *testing.T) {
	f := newSlots()
	p, _ := serveFrontend(t, f)
	r := exampleRequest()
	r.Part, r.Times.Step, r.Text = nil, 0, "hang"
	for i := range 300 {
		f.released = make(chan struct{})
		short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
		if _, err := p.Query(short, r); err == nil || short.Err() == nil {
			t.Fatalf("call %d: %v before the end of the context (%v)", i, err, short.Err())
		}
		cancel()
		select {
		case <-f.released:
		case <-time.After(10 * time.Millisecond): // the call ended before it was received
		}
	}
}

// TestQueryMemory checks the error if this process has no memory for an answer.
func TestQueryMemory(t *testing.T) {
	f := newSlots()
	p, _ := serveFrontend(t, f)
	r := exampleRequest()
	r.Part, r.Times.Step, r.Text = nil, 0, "vector"
	account := memory.NewAccount(100_000, prometheus.NewRegistry())
	other, h := account.Begin(memory.Request{Tenant: "other"}), account.Begin(memory.Request{Tenant: "t"})
	defer other.Close()
	defer h.Close()
	for other.Take(1000) == nil {
	}
	_, err := p.Query(memory.NewContext(ctx, h), r)
	var internal promql.ErrStorage
	if !errors.As(err, &internal) {
		t.Errorf("error %T %v, want one that is answered with 503", err, err)
	}

	stream, err := p.Work(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	slot := <-f.list
	go func() {
		if r, err := stream.Next(); err == nil {
			_ = stream.Answer(r, &evaluation.Answer{Value: vector()})
		}
	}()
	a, err := slot.Evaluate(memory.NewContext(ctx, h), r)
	if !errors.Is(err, dispatch.ErrSlotBroken) || a == nil || !errors.As(a.Err, &internal) {
		t.Errorf("answer of a querier %+v, %v", a, err)
	}
	stream.Close()
}

// TestMemoryOfIncompleteAnswer checks that the memory of an incomplete answer is released when the
// rest does not arrive, since the evaluation is repeated within the same request.
func TestMemoryOfIncompleteAnswer(t *testing.T) {
	r := exampleRequest()
	r.Part, r.Times.Step = nil, 0
	h := memory.NewAccount(1<<30, prometheus.NewRegistry()).Begin(memory.Request{Tenant: "t"})
	defer h.Close()
	var piece wire.EvaluationResponse
	if err := sendAnswer(r, &evaluation.Answer{Value: vector()}, func(p *wire.EvaluationResponse) error {
		piece = *p
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	piece.End = nil
	f := newSlots()
	p, _ := serveFrontend(t, f)
	stream, err := p.Work(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	slot := <-f.list
	held := make(chan int64, 1)
	go func() {
		_, _ = stream.Next()
		for range 2 { // the second one is received after the first was added
			_ = stream.stream.Send(&wire.WorkMessage{Answer: &piece})
		}
		end := time.Now().Add(10 * time.Second)
		for h.Used() == 0 && time.Now().Before(end) {
			runtime.Gosched()
		}
		held <- h.Used()
		_ = stream.stream.CloseSend()
	}()
	if _, err := slot.Evaluate(memory.NewContext(ctx, h), r); !errors.Is(err, dispatch.ErrQuerierEnded) {
		t.Fatalf("error %v", err)
	}
	if during, after := <-held, h.Used(); during == 0 || after != 0 {
		t.Errorf("%d bytes held during the evaluation, %d after it", during, after)
	}
}

func vector() promql.Vector {
	var v promql.Vector
	for i := range 100 {
		v = append(v, promql.Sample{Metric: labels.FromStrings("i", strconv.Itoa(i))})
	}
	return v
}

// hung is a frontend that never responds.
type hung struct{ wire.FrontendServer }

func (hung) Query(_ *wire.EvaluationRequest, out wire.Frontend_QueryServer) error {
	<-out.Context().Done()
	return out.Context().Err()
}

// TestFrontendHangs checks that a frontend that does not respond counts as unavailable, and that
// one that works on a query may take as long as the query.
func TestFrontendHangs(t *testing.T) {
	p, _ := serveCalls(t, func(s *Server) { wire.RegisterFrontendServer(s.grpc, hung{}) })
	r := exampleRequest()
	r.Part, r.Times.Step, r.Text = nil, 0, "hang"
	if _, err := p.Query(ctx, r); !errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("a frontend that hangs: %v", err)
	}

	f := newSlots()
	p, _ = serveFrontend(t, f)
	canceled, cancel := context.WithTimeout(ctx, aliveTimeout+500*time.Millisecond)
	defer cancel()
	if _, err := p.Query(canceled, r); errors.Is(err, wire.ErrUnavailable) || err == nil {
		t.Errorf("a frontend that works longer than %s: %v", aliveTimeout, err)
	}
	<-f.released
}

// TestWork checks slots over the network: evaluations, their cancellation, a querier that
// leaves or dies, and a frontend that ends a slot.
func TestWork(t *testing.T) {
	f := newSlots()
	p, _ := serveFrontend(t, f)
	began, held := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	w := worker.New(worker.Options{
		Frontends: func(context.Context) ([]worker.Frontend, error) {
			return []worker.Frontend{{ID: "f", Open: func(ctx context.Context) (worker.Stream, error) { return p.Work(ctx, "q") }}}, nil
		},
		Run: func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, func()) {
			switch r.Text {
			case "wait":
				began <- struct{}{}
				<-held
			case "hang":
				began <- struct{}{}
				<-ctx.Done()
				ended <- ctx.Err()
			}
			return &evaluation.Answer{Value: promql.String{V: r.Text}}, func() {}
		},
		Slots: 1, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	running, stop := context.WithCancel(ctx)
	defer stop()
	go w.Run(running)

	r := exampleRequest()
	r.Part, r.Times.Step, r.Text = nil, 0, "x"
	slot := <-f.list
	for range 3 {
		if a, err := slot.Evaluate(ctx, r); err != nil || a.Value.(promql.String).V != "x" || slot.Querier() != "q" {
			t.Fatalf("answer %v, %v", a, err)
		}
	}
	// A canceled evaluation ends in the querier when the frontend ends the slot, and the
	// querier lends a new one.
	canceled, cancel := context.WithCancel(ctx)
	r.Text = "hang"
	go func() { <-began; cancel() }()
	if _, err := slot.Evaluate(canceled, r); !errors.Is(err, dispatch.ErrSlotBroken) {
		t.Errorf("canceled: %v", err)
	}
	f.end <- dispatch.ErrSlotBroken
	if err := <-ended; err == nil {
		t.Error("the evaluation of a canceled query goes on")
	}
	slot = <-f.list

	// A querier that leaves completes its evaluation.
	r.Text = "wait"
	go func() {
		<-began
		stop()
		<-slot.Leaving()
		close(held)
	}()
	if a, err := slot.Evaluate(ctx, r); err != nil || a.Value.(promql.String).V != "wait" {
		t.Errorf("the last answer of a querier: %v, %v", a, err)
	}
	f.end <- nil
	w.Wait(ctx)
}

// TestQuerierEnds checks that a frontend detects the end of a querier at once, and that the error
// depends on whether the evaluation had begun.
func TestQuerierEnds(t *testing.T) {
	for _, tt := range []struct {
		alone, began bool
		want         error
	}{
		{false, false, dispatch.ErrQuerierEnded},
		{true, false, dispatch.ErrNotBegun},
		{true, true, dispatch.ErrQuerierEnded},
	} {
		f := newSlots()
		p, _ := serveFrontend(t, f)
		stream, err := p.Work(ctx, "q")
		if err != nil {
			t.Fatal(err)
		}
		slot := <-f.list
		go func() {
			_, _ = stream.Next()
			if tt.began {
				_ = stream.Began()
			}
			_ = stream.stream.CloseSend() // after what was sent
		}()
		r := exampleRequest()
		r.Alone = tt.alone
		if _, err := slot.Evaluate(ctx, r); !errors.Is(err, tt.want) {
			t.Errorf("alone %v, began %v: %v", tt.alone, tt.began, err)
		}
		stream.Close()
	}
}
