package home

import (
	"context"
	"sync"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// Server answers the queries that other backends send to this frontend.
type Server struct {
	run func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, func())

	mu       sync.Mutex
	draining bool
	running  sync.WaitGroup
}

// NewServer returns a Server. `run` answers a query; the function that it returns releases
// the answer.
func NewServer(run func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, func())) *Server {
	return &Server{run: run}
}

// Query answers a query. Its only error is ErrDraining. The caller calls the returned function when it no
// longer needs the answer.
func (s *Server) Query(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, func(), error) {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return nil, nil, ErrDraining
	}
	s.running.Add(1)
	s.mu.Unlock()
	a, release := s.run(ctx, r)
	return a, func() {
		release()
		s.running.Done()
	}, nil
}

// Drain rejects further queries, and waits until those in progress are answered or ctx
// ends.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
