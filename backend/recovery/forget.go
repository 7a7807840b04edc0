package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/wire"
)

// aliveFor is how long an instance counts as alive after its last heartbeat.
const aliveFor = 15 * time.Second

var (
	// ErrNotMember is returned for an instance that is not in the ring.
	ErrNotMember = errors.New("instance is not in the ring")
	// ErrAlive is returned for an instance that sends heartbeats.
	ErrAlive = errors.New("instance is alive")
	// ErrHasAside is returned for an ingester that cannot leave or be forgotten because it, or
	// a lost incarnation of it, has series set aside that no operator dropped.
	ErrHasAside = errors.New("the ingester has series set aside that were not dropped")
)

// AsideError is an ErrHasAside with the records of the series set aside, at least
// one.
type AsideError struct{ Records []store.AsideOf }

func (e *AsideError) Error() string {
	l := &e.Records[0]
	return fmt.Sprintf("%s: no pack can hold them, so they are not uploaded; %d records, the first of tenant %s, day %s, window %d; "+
		"list them with: pallium aside list, drop them with: pallium aside drop", ErrHasAside, len(e.Records), l.Tenant,
		series.DateOf(l.Window.Day), l.Window.Number)
}

// Unwrap returns ErrHasAside.
func (e *AsideError) Unwrap() error { return ErrHasAside }

// checkAside returns an AsideError while an instance has series set aside that were not
// dropped.
func (r *Recovery) checkAside(ctx context.Context, instance string) error {
	list, err := r.o.Store.AsidesOf(ctx, instance)
	if err != nil || len(list) == 0 {
		return err
	}
	return &AsideError{list}
}

// Member returns an instance of a ring, or ErrNotMember.
func Member(r *ring.Ring, id string) (*ring.Instance, error) {
	all := slices.Concat(r.Instances(), r.Others())
	i := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q", ErrNotMember, id)
	}
	return &all[i], nil
}

// Forget removes from the ring an instance that will not come back, without calling the instance.
// An instance that is alive is removed only with force, or if its entry in the ring is not
// trusted. If the instance is an ingester, Forget marks as lost its pending windows, the current
// window and the previous one, and returns how many it marked; see markForgotten. If the number is
// above 0, the caller must call Restore for the instance. Errors are ErrNotMember, ErrAlive,
// ErrHasAside, wire.ErrUnavailable if the ring cannot be read or written, and errors of the store.
// After an error the instance may still be in the ring.
func (r *Recovery) Forget(ctx context.Context, id string, force bool) (windows int, err error) {
	in := &ring.Instance{ID: id}
	untrusted := r.o.Members.Untrusted(id) // only the ID of such an instance is known
	if !untrusted {
		now, err := r.o.Members.Ring(ctx)
		if err != nil {
			return 0, fmt.Errorf("read the ring: %w: %w", wire.ErrUnavailable, err)
		}
		if in, err = Member(now, id); err != nil {
			return 0, err
		}
	}
	if in.SinceHeartbeat < aliveFor && !force && !untrusted {
		return 0, fmt.Errorf("%w: its last heartbeat is %s old", ErrAlive, in.SinceHeartbeat.Round(time.Second))
	}
	if err := r.checkAside(ctx, id); err != nil {
		return 0, err
	}
	if windows, err = r.markForgotten(ctx, in, untrusted); err != nil {
		return 0, fmt.Errorf("mark the instance's pending windows as lost: %w", err)
	}
	if _, err := r.o.Members.Forget(ctx, id); err != nil {
		return 0, fmt.Errorf("remove the instance from the ring: %w: %w", wire.ErrUnavailable, err)
	}
	if err := r.o.Store.ForgetAsides(ctx, id); err != nil {
		r.o.Logger.Warn("instance removed from the ring, but its old records of dropped series remain, which is harmless",
			"instance", id, "err", err)
	}
	return windows, nil
}

// markForgotten marks as lost the pending windows of an ingester, the current window and the
// previous one, and waits until every querier has read the loss. It returns how many it marked. The
// number may be above that of the windows, because records of series set aside are marked and count,
// too. An instance whose entry in the ring is not trusted is an ingester if it has pending windows.
// It needs two calls of MarkLost, and a pending window that is the current or the previous one counts
// in both.
func (r *Recovery) markForgotten(ctx context.Context, in *ring.Instance, untrusted bool) (windows int, err error) {
	var also []store.Window
	switch {
	case len(in.Tokens) > 0:
		also = r.lastWindows()
	case !untrusted:
		return 0, nil // not an ingester
	}
	windows, err = r.o.Store.MarkLost(ctx, in.ID, in.Incarnation, in.Zone, also)
	if err == nil && untrusted && windows > 0 { // it was an ingester
		var more int
		more, err = r.o.Store.MarkLost(ctx, in.ID, in.Incarnation, in.Zone, r.lastWindows())
		windows += more
	}
	if err != nil || windows == 0 && untrusted {
		return windows, err
	}
	return windows, r.o.Wait(ctx, lossesKnown)
}
