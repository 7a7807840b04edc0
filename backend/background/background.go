// Package background owns goroutines that go on beside whoever started them: a
// Group gives all of them one context, ends it, and waits until they have ended.
// What lives no longer than a call needs none: it is waited for there, by
// sync.WaitGroup or errgroup.
package background

import (
	"context"
	"sync"
)

// Group is goroutines with one owner, who calls Stop, or Cancel and then Wait. It
// is safe for concurrent use.
type Group struct {
	ctx    context.Context // the lifetime of the group itself, not that of a call
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// New returns a group in which nothing runs yet.
func New() *Group {
	g := &Group{}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// Go runs one more, with the group's context. It is not called any more once Wait
// may have returned; after Cancel, run finds its context ended.
func (g *Group) Go(run func(context.Context)) { g.done.Go(func() { run(g.ctx) }) }

// Context ends with Cancel.
func (g *Group) Context() context.Context { return g.ctx }

// Cancel ends the context and does not wait.
func (g *Group) Cancel() { g.cancel() }

// Wait returns when all that was begun has ended.
func (g *Group) Wait() { g.done.Wait() }

// Stop is Cancel and Wait. It may be called again.
func (g *Group) Stop() {
	g.Cancel()
	g.Wait()
}
