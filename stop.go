package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palliumhq/pallium/backend/background"
)

// ErrStopTimeout is returned when stopping took longer than shutdown_timeout. Parts of the process
// are still open, so the caller must exit. The log names the part that did not stop.
var ErrStopTimeout = errors.New("stopping exceeded shutdown_timeout")

// ErrNotStarted is returned by a process that was stopped before it served. Nothing is
// lost: the next start replays the write-ahead log again.
var ErrNotStarted = errors.New("stopped before the start was complete")

// notStarted joins the errors. If ctx is done, it returns an error that wraps ErrNotStarted and all of them.
func notStarted(ctx context.Context, with ...error) error {
	if ctx.Err() == nil {
		return errors.Join(with...)
	}
	return fmt.Errorf("%w: %w", ErrNotStarted, errors.Join(append(with, ctx.Err())...))
}

// closer closes one part of the process.
type closer struct {
	name  string // for the log
	close func() error
}

// onClose registers a part to be closed with the process. Parts are closed in reverse order.
func (p *process) onClose(name string, fn func() error) {
	p.closers = append(p.closers, closer{name, fn})
}

// start registers a part that runs from when the listeners are open until the process is closed. It
// never runs in a process that does not serve.
func (p *process) start(name string, run func(context.Context)) {
	part := background.New()
	p.onServe(func() { part.Go(run) })
	p.onClose(name, func() error { part.Stop(); return nil })
}

// onServe registers a function to be called when everything is built and the listeners are
// open, in the order of registration.
func (p *process) onServe(begin func()) { p.onServing = append(p.onServing, begin) }

// ending is the progress of stopping a process.
type ending struct {
	begun   chan struct{} // closed when stopping begins
	once    sync.Once
	waiting atomic.Pointer[string] // the part that stop is waiting for
	done    chan struct{}          // closed when stopping is complete
}

func newEnding() *ending { return &ending{begun: make(chan struct{}), done: make(chan struct{})} }

// begin starts the timeout of stopping.
func (e *ending) begin() { e.once.Do(func() { close(e.begun) }) }

// waitFor sets the part that stop waits for next.
func (e *ending) waitFor(what string) { e.waiting.Store(&what) }

// waitsFor returns the part that stop is waiting for.
func (e *ending) waitsFor() string {
	if p := e.waiting.Load(); p != nil {
		return *p
	}
	return "the process"
}

// bounded runs fn. Once ctx is done or e has begun, fn has shutdown_timeout to return. If
// it takes longer, bounded logs what fn is waiting for and returns ErrStopTimeout while fn
// still runs.
func (p *process) bounded(ctx context.Context, e *ending, fn func() error) error {
	var err error
	go func() {
		defer close(e.done)
		err = fn()
	}()
	select {
	case <-e.done:
		return err
	case <-ctx.Done():
	case <-e.begun:
	}
	limit := time.Duration(p.cfg.ShutdownTimeout)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.done:
		return err
	case <-timer.C:
	}
	p.opts.Logger.Error("shutdown timeout exceeded: exiting without waiting any longer; nothing acknowledged is lost, "+
		"the next start replays the write-ahead log", "waiting_for", e.waitsFor(), "shutdown_timeout", limit)
	return ErrStopTimeout
}

// stop drains requests, seals the head, and closes the parts. Draining gets at most half of
// shutdown_timeout, so that time is left for sealing.
func (p *process) stop(servers []*http.Server, running *background.Group, serving *sync.WaitGroup) error {
	deadline := p.opts.Now().Add(time.Duration(p.cfg.ShutdownTimeout))
	p.serving.Store(false)
	p.ending.begin()
	running.Cancel()
	requests, cancel := context.WithTimeout(context.Background(), time.Duration(p.cfg.ShutdownTimeout)/2)
	defer cancel()
	p.ending.waitFor("requests in progress")
	errs := p.drain(requests, servers)
	p.ending.waitFor("listeners")
	serving.Wait()
	p.ending.waitFor("background work")
	running.Wait()
	p.background.Cancel()
	p.ending.waitFor("operator commands in progress")
	p.background.Wait()
	p.ending.waitFor("sealing of the head")
	p.seal(deadline)
	return errors.Join(errs, p.close())
}

// drain waits for requests in progress until ctx is done, then cancels them.
func (p *process) drain(ctx context.Context, servers []*http.Server) error {
	if p.opts.Role == Backend { // so that gateways switch to other backends before the listener closes
		servers[0].SetKeepAlivesEnabled(false)
	}
	var drained sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		drained.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				errs[i] = errors.Join(fmt.Errorf("requests were canceled: %w", err), s.Close())
			}
		})
	}
	drained.Wait()
	if p.backend != nil { // after the requests of this process, which may need its querier
		p.backend.drainQueries(ctx)
	}
	if p.rpc() != nil { // after draining, since requests may need it
		p.rpc().Stop(ctx)
	}
	p.requests.Cancel()
	return errors.Join(errs...)
}

// close closes the parts in reverse order.
func (p *process) close() error {
	p.background.Cancel()
	p.ending.waitFor("operator commands in progress")
	p.background.Wait()
	var errs error
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.ending.waitFor(p.closers[i].name)
		if err := p.closers[i].close(); err != nil {
			errs = errors.Join(errs, fmt.Errorf("close the %s: %w", p.closers[i].name, err))
		}
	}
	p.closers = nil
	return errs
}
