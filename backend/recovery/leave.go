package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/store"
)

// leaveWait is how long others may need to see that this ingester leaves.
const leaveWait = 8 * time.Second

// ErrLeaving is returned while another call of Leave runs.
var ErrLeaving = errors.New("this ingester is leaving already: another command is under way")

// Leaving is this process's ingester as it is when it leaves.
type Leaving interface {
	Active
	Aside() []store.AsideOf // of which it has files
	Flush() error           // seals the head
	Upload(context.Context) error
	StopPushes()
	ResumePushes()
	PendingWindows() int // windows with samples that are not uploaded
}

// Leaver takes an ingester out of the cluster. Its steps are functions so that a test
// can watch their order.
type Leaver struct {
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

// Leaver returns the way out of the cluster for this process's ingester.
func (r *Recovery) Leaver(ing Leaving) *Leaver {
	return &Leaver{
		mayLeave: func(ctx context.Context) error { return r.mayLeave(ctx, ing) },
		announce: func(ctx context.Context) error {
			err := r.o.Members.SetState(ctx, ring.Leaving)
			if err == nil {
				r.handOver(ctx, ing) // of the places of active series
			}
			return err
		},
		wait: func(ctx context.Context) error { return r.o.Wait(ctx, leaveWait) },
		flush: func(ctx context.Context) error {
			if err := ing.Flush(); err != nil {
				return err
			}
			return ing.Upload(ctx)
		},
		stopPushes: ing.StopPushes, resume: ing.ResumePushes,
		pending: ing.PendingWindows, remove: r.o.Members.Leave,
	}
}

// Leave takes the ingester out of the cluster for good: others take its new series,
// what it has is uploaded, and only then is it forgotten. A distributor that does not
// know the ring as it is may send pushes all the same, so they are stopped before the
// last look at what is not uploaded. Repeating it is harmless.
func (l *Leaver) Leave(ctx context.Context) error {
	if !l.mu.TryLock() {
		return ErrLeaving
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
func (l *Leaver) finish(ctx context.Context) error {
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

// mayLeave returns an error while the ingester has files of series set aside.
func (r *Recovery) mayLeave(ctx context.Context, ing Leaving) error {
	list := ing.Aside()
	if len(list) == 0 {
		return nil
	}
	if err := r.checkAside(ctx, r.o.Members.Self().ID); err != nil {
		return err
	}
	return fmt.Errorf("%w: %d records are not written yet, or were dropped and their files are about to go; repeat the command in a minute",
		ErrHasAside, len(list))
}
