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

// leaveWait is the time after which every process has read the state LEAVING.
const leaveWait = 8 * time.Second

// ErrNeeded is returned for an ingester without which all writes would fail.
var ErrNeeded = errors.New("writes need this ingester")

// ErrLeaving is returned while another call of Leave is in progress.
var ErrLeaving = errors.New("another command to leave the ring is in progress")

// Leaving is the part of this process's ingester that leaving needs.
type Leaving interface {
	Active
	Aside() []store.AsideOf // records of the files of series set aside
	Flush() error           // seals the head
	Upload(context.Context) error
	StopPushes()
	ResumePushes()
	PendingWindows() int // windows with samples that are not uploaded
}

// Leaver removes an ingester from the cluster. Its steps are functions so that a test
// can observe their order.
type Leaver struct {
	mayLeave   func(context.Context) error
	spare      func(context.Context) error // ErrNeeded if the cluster cannot spare the ingester
	announce   func(context.Context) error // LEAVING in the ring
	wait       func(context.Context) error // until other processes have read LEAVING
	flush      func(context.Context) error // seals and uploads everything
	stopPushes func()
	resume     func() // accepts pushes again
	pending    func() int
	remove     func(context.Context) error // from the ring

	mu   sync.Mutex // held while a call runs
	left bool
}

// Leaver returns a Leaver for this process's ingester.
func (r *Recovery) Leaver(ing Leaving) *Leaver {
	return &Leaver{
		mayLeave: func(ctx context.Context) error { return r.mayLeave(ctx, ing) },
		spare:    r.spare,
		announce: func(ctx context.Context) error {
			err := r.o.Members.SetState(ctx, ring.Leaving)
			if err == nil {
				r.handOver(ctx, ing) // of active series
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

// Check returns why the ingester cannot leave: it has series that are nowhere else, or
// writes need it. An ingester that is already leaving is not needed.
func (l *Leaver) Check(ctx context.Context) error {
	if err := l.mayLeave(ctx); err != nil {
		return err
	}
	return l.spare(ctx)
}

// Leave removes the ingester from the cluster permanently: as LEAVING it receives no new
// series, it uploads all its data, and only then it leaves the ring. A distributor with
// an older ring may still send pushes, so the ingester stops accepting them before the
// last check for pending windows. Leave may be repeated.
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

// finish does the steps that need pushes to be stopped.
func (l *Leaver) finish(ctx context.Context) error {
	if err := l.flush(ctx); err != nil { // samples that were accepted during the first flush
		return err
	}
	if err := l.mayLeave(ctx); err != nil { // the flush may have set series aside
		return err
	}
	if n := l.pending(); n > 0 {
		return fmt.Errorf("%d windows are still pending upload; repeat the command", n)
	}
	return l.remove(ctx)
}

// spare returns ErrNeeded if fewer failure domains than replicas would have ACTIVE
// ingesters without this one.
func (r *Recovery) spare(ctx context.Context) error {
	members, err := r.o.Members.Ring(ctx)
	if err != nil {
		return err
	}
	self, left := r.o.Members.Self(), map[string]bool{}
	for i := range members.Instances() {
		if in := &members.Instances()[i]; in.ID != self.ID && in.State == ring.Active {
			left[in.Domain()] = true
		}
	}
	if self.State != ring.Active || len(left) >= r.o.Replication {
		return nil
	}
	return fmt.Errorf("%w: without it %d failure domains have ACTIVE ingesters, and writes need %d (cluster.replication). Start another "+
		"ingester first; to stop the whole cluster, stop its processes", ErrNeeded, len(left), r.o.Replication)
}

// mayLeave returns ErrHasAside, or an error of the store, while the ingester has files of
// series set aside.
func (r *Recovery) mayLeave(ctx context.Context, ing Leaving) error {
	list := ing.Aside()
	if len(list) == 0 {
		return nil
	}
	if err := r.checkAside(ctx, r.o.Members.Self().ID); err != nil {
		return err
	}
	return fmt.Errorf("%w: %d records of series set aside are still pending; repeat the command in a minute",
		ErrHasAside, len(list))
}
