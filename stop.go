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

// ErrStopTimeout is returned when stopping took longer than shutdown_timeout.
// Parts of the process are open still: the caller must end it. The log says what
// it was waiting for.
var ErrStopTimeout = errors.New("stopping exceeded shutdown_timeout")

// ErrNotStarted is in the error of a process that was told to stop before it
// served. Nothing is lost: the next start replays the write-ahead log again.
var ErrNotStarted = errors.New("told to stop before it served")

// notStarted is ErrNotStarted, with what the start ended with, when ctx is done.
func notStarted(ctx context.Context, with ...error) error {
	if ctx.Err() == nil {
		return errors.Join(with...)
	}
	return fmt.Errorf("%w: %w", ErrNotStarted, errors.Join(append(with, ctx.Err())...))
}

// closer closes one part of the process.
type closer struct {
	name  string // as the log tells it
	close func() error
}

// onClose has a part closed with the process, before those that were built
// earlier.
func (p *process) onClose(name string, fn func() error) {
	p.closers = append(p.closers, closer{name, fn})
}

// start has a part run beside the others, from when the process serves until it is
// closed. A process that never serves never runs it.
func (p *process) start(name string, run func(context.Context)) {
	part := background.New()
	p.onServe(func() { part.Go(run) })
	p.onClose(name, func() error { part.Stop(); return nil })
}

// onServe has a part begin when everything is built and the listeners are open, in
// the order of building.
func (p *process) onServe(begin func()) { p.beginnings = append(p.beginnings, begin) }

// ending is the end of a process: when it began, and what it waits for now.
type ending struct {
	begun chan struct{} // closed when it begins
	once  sync.Once
	at    atomic.Pointer[string]
	done  chan struct{} // closed when what was to end has ended
}

func newEnding() *ending { return &ending{begun: make(chan struct{}), done: make(chan struct{})} }

// begin starts the time that stopping may take.
func (e *ending) begin() { e.once.Do(func() { close(e.begun) }) }

// now says what is waited for from now on.
func (e *ending) now(what string) { e.at.Store(&what) }

func (e *ending) waitsFor() string {
	if p := e.at.Load(); p != nil {
		return *p
	}
	return "the process"
}

// bounded runs fn to its end. From when ctx is done or fn says that it begins to
// end, it has shutdown_timeout; if it takes longer, bounded logs what fn was
// waiting for and returns ErrStopTimeout, and leaves fn behind.
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
	p.opts.Logger.Error("shutdown timeout exceeded: the process ends without waiting any longer; nothing acknowledged is lost, "+
		"the next start replays the write-ahead log", "waiting_for", e.waitsFor(), "shutdown_timeout", limit)
	return ErrStopTimeout
}

// stop ends everything: first what takes requests, then what is in memory is
// sealed, then the parts are closed. Requests get half of the time at most, so
// that they cannot take the time that sealing needs.
func (p *process) stop(servers []*http.Server, beside *background.Group, serving *sync.WaitGroup) error {
	deadline := p.opts.Now().Add(time.Duration(p.cfg.ShutdownTimeout))
	p.serving.Store(false)
	p.ending.begin()
	beside.Cancel()
	requests, cancel := context.WithTimeout(context.Background(), time.Duration(p.cfg.ShutdownTimeout)/2)
	defer cancel()
	p.ending.now("requests under way")
	errs := p.drain(requests, servers)
	p.ending.now("listeners")
	serving.Wait()
	p.ending.now("background work")
	beside.Wait()
	p.background.Cancel()
	p.ending.now("commands of the operator under way")
	p.background.Wait()
	p.ending.now("sealing of the head")
	p.seal(deadline)
	return errors.Join(errs, p.close())
}

// drain lets requests under way end until ctx is done, then cuts them off.
func (p *process) drain(ctx context.Context, servers []*http.Server) error {
	if p.opts.Role == Backend { // gateways go elsewhere before the listener closes
		servers[0].SetKeepAlivesEnabled(false)
	}
	var drained sync.WaitGroup
	errs := make([]error, len(servers))
	for i, s := range servers {
		drained.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				errs[i] = errors.Join(fmt.Errorf("requests were cut off: %w", err), s.Close())
			}
		})
	}
	drained.Wait()
	if p.rpc() != nil { // after the requests, which may need it
		p.rpc().Stop(ctx)
	}
	p.requests.Cancel()
	return errors.Join(errs...)
}

// close closes what was opened, last first.
func (p *process) close() error {
	p.background.Cancel()
	p.ending.now("commands of the operator under way")
	p.background.Wait()
	var errs error
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.ending.now(p.closers[i].name)
		if err := p.closers[i].close(); err != nil {
			errs = errors.Join(errs, fmt.Errorf("close the %s: %w", p.closers[i].name, err))
		}
	}
	p.closers = nil
	return errs
}
