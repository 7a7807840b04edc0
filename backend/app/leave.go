package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
)

// leaveWait is how long others may need to see that this ingester leaves.
const leaveWait = 8 * time.Second

// leaving is the way of an ingester out of the cluster. Its parts are functions so
// that a test can watch their order.
type leaving struct {
	mayLeave   func(context.Context) error
	announce   func(context.Context) error // LEAVING in the ring
	wait       func(context.Context) error // until others know
	flush      func(context.Context) error // seals and uploads everything
	stopPushes func()
	resume     func() // of pushes
	pending    func() int
	remove     func(context.Context) error // from the ring

	mu   sync.Mutex // held while a call runs
	left bool
}

var errLeaving = errors.New("this ingester is leaving already: another command is under way")

// run takes this ingester out of the cluster for good: others take its new series,
// what it has is uploaded, and only then is it forgotten. A distributor that does
// not know the ring as it is may send pushes all the same, so they are stopped
// before the last look at what is not uploaded.
func (l *leaving) run(ctx context.Context) error {
	if !l.mu.TryLock() {
		return errLeaving
	}
	defer l.mu.Unlock()
	if l.left {
		return nil
	}
	for _, step := range []func(context.Context) error{l.mayLeave, l.announce, l.wait, l.flush} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	l.stopPushes()
	if err := l.finish(ctx); err != nil {
		l.resume()
		return err
	}
	l.left = true
	return nil
}

// finish is what happens while nothing is accepted.
func (l *leaving) finish(ctx context.Context) error {
	if err := l.flush(ctx); err != nil { // what came during the first one
		return err
	}
	if err := l.mayLeave(ctx); err != nil { // something may have been set aside just now
		return err
	}
	if n := l.pending(); n > 0 {
		return fmt.Errorf("%d windows have samples that are not uploaded; repeat the command", n)
	}
	return l.remove(ctx)
}

func (a *App) newLeaving() *leaving {
	return &leaving{
		mayLeave: a.mayLeave,
		announce: func(ctx context.Context) error {
			err := a.members.SetState(ctx, ring.Leaving)
			if err == nil {
				a.handOver(ctx) // of the places of active series
			}
			return err
		},
		wait: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(leaveWait):
				return nil
			}
		},
		flush: a.flushOwn, stopPushes: a.ingester.StopPushes, resume: a.ingester.ResumePushes,
		pending: a.ingester.Owes, remove: a.members.Leave,
	}
}
