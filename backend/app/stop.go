package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
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
func (a *App) onClose(name string, fn func() error) {
	a.closers = append(a.closers, closer{name, fn})
}

// closeWorker has a goroutine ended and waited for with the process.
func (a *App) closeWorker(name string, cancel context.CancelFunc, done *sync.WaitGroup) {
	a.onClose(name, func() error { cancel(); done.Wait(); return nil })
}

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
func (a *App) bounded(ctx context.Context, e *ending, fn func() error) error {
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
	limit := time.Duration(a.cfg.ShutdownTimeout)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.done:
		return err
	case <-timer.C:
	}
	a.opts.Logger.Error("shutdown timeout exceeded: the process ends without waiting any longer; nothing acknowledged is lost, the next start replays the write-ahead log",
		"waiting_for", e.waitsFor(), "shutdown_timeout", limit)
	return ErrStopTimeout
}

// stop ends everything: first what takes requests, then what is in memory is
// sealed, then the parts are closed. Requests get half of the time at most, so
// that they cannot take the time that sealing needs.
func (a *App) stop(servers []*http.Server, stopBackground context.CancelFunc, background, serving *sync.WaitGroup) error {
	deadline := a.opts.Now().Add(time.Duration(a.cfg.ShutdownTimeout))
	a.serving.Store(false)
	a.ending.begin()
	stopBackground()
	requests, cancel := context.WithTimeout(context.Background(), time.Duration(a.cfg.ShutdownTimeout)/2)
	defer cancel()
	a.ending.now("requests under way")
	errs := a.drain(requests, servers)
	a.ending.now("listeners")
	serving.Wait()
	a.ending.now("background work")
	background.Wait()
	a.stopRunning()
	a.ending.now("commands of the operator under way")
	a.background.Wait()
	a.ending.now("sealing of the head")
	a.seal(deadline)
	return errors.Join(errs, a.close())
}

// drain lets requests under way end until ctx is done, then cuts them off.
func (a *App) drain(ctx context.Context, servers []*http.Server) error {
	if a.opts.Role == Backend { // gateways go elsewhere before the listener closes
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
	if a.rpc != nil { // after the requests, which may need it
		a.rpc.Stop(ctx)
	}
	a.cutOff()
	return errors.Join(errs...)
}

// close closes what was opened, last first.
func (a *App) close() error {
	a.stopRunning()
	a.ending.now("commands of the operator under way")
	a.background.Wait()
	var errs error
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.ending.now(a.closers[i].name)
		errs = errors.Join(errs, a.closers[i].close())
	}
	a.closers = nil
	return errs
}
