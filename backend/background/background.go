// Package background manages goroutines that outlive the call that starts them: a
// Group gives them one context, cancels it, and waits until they have returned.
// Goroutines that end within a call need no Group; the call waits for them with
// sync.WaitGroup or errgroup.
package background

import (
	"context"
	"sync"
)

// Group is a set of goroutines with one owner, which calls Stop, or Cancel and then
// Wait. It is safe for concurrent use.
type Group struct {
	ctx    context.Context // context of the group's lifetime, not of a call
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns an empty group.
func New() *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// Go runs a function in a new goroutine with the group's context. It must not be
// called after Wait may have returned. After Cancel the context is canceled from
// the start.
func (g *Group) Go(run func(context.Context)) { g.done.Go(func() { run(g.ctx) }) }

// Context returns the group's context, which Cancel cancels.
func (g *Group) Context() context.Context { return g.ctx }

// Cancel cancels the group's context and does not wait.
func (g *Group) Cancel() { g.cancel() }

// Wait returns when all goroutines of the group have returned.
func (g *Group) Wait() { g.done.Wait() }

// Stop calls Cancel and Wait. It may be called more than once.
func (g *Group) Stop() {
	g.Cancel()
	g.Wait()
}
