package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/wire"
)

// alive is how old the last heartbeat of an instance is at least that may be
// forgotten.
const alive = 15 * time.Second

var (
	// ErrNotMember is returned for an instance that is not in the ring.
	ErrNotMember = errors.New("the instance is not in the ring")
	// ErrAlive is returned for an instance that sends heartbeats.
	ErrAlive = errors.New("the instance is alive")
	// ErrHasAside is returned for an ingester that cannot leave or be forgotten.
	ErrHasAside = errors.New("series that no pack can hold are on the ingester's disk alone")
)

// AsideError is ErrHasAside with what is set aside, of which there is at least one
// record.
type AsideError struct{ Records []store.AsideOf }

func (e *AsideError) Error() string {
	l := &e.Records[0]
	return fmt.Sprintf("%s: %d records, the first of tenant %s, day %d, window %d; list them with GET /admin/v1/aside, "+
		"give them up with POST /admin/v1/aside/drop", ErrHasAside, len(e.Records), l.Tenant, l.Window.Day, l.Window.Number)
}

// Unwrap returns ErrHasAside.
func (e *AsideError) Unwrap() error { return ErrHasAside }

// checkAside returns an AsideError while an instance has something set aside that
// nobody gave up.
func (r *Recovery) checkAside(ctx context.Context, instance string) error {
	list, err := r.o.Store.AsidesOf(ctx, instance)
	if err != nil || len(list) == 0 {
		return err
	}
	return &AsideError{list}
}

// Member finds an instance in a ring; ErrNotMember without it.
func Member(r *ring.Ring, id string) (*ring.Instance, error) {
	all := slices.Concat(r.Instances(), r.Others())
	i := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if i < 0 {
		return nil, fmt.Errorf("%w: %q", ErrNotMember, id)
	}
	return &all[i], nil
}

// Forget takes an instance out of the ring that will not come back, and that need not
// answer; one that is alive only with force. What it had not uploaded stays marked as
// lost: it returns how many windows that are, and the caller has Restore see to them.
// Errors are ErrNotMember, ErrAlive, ErrHasAside, wire.ErrUnavailable when the ring
// cannot be read or written, and those of the store; upon all of them the instance was
// not forgotten.
func (r *Recovery) Forget(ctx context.Context, id string, force bool) (windows int, err error) {
	in := &ring.Instance{ID: id}
	untrusted := r.o.Members.Distrusts(id) // then nothing is known of it but its name
	if !untrusted {
		now, err := r.o.Members.Ring(ctx)
		if err != nil {
			return 0, fmt.Errorf("the ring is not known: %w: %w", wire.ErrUnavailable, err)
		}
		if in, err = Member(now, id); err != nil {
			return 0, err
		}
	}
	if in.Silent < alive && !force && !untrusted {
		return 0, fmt.Errorf("%w: its last heartbeat is %s old", ErrAlive, in.Silent.Round(time.Second))
	}
	if err := r.checkAside(ctx, id); err != nil {
		return 0, err
	}
	if windows, err = r.loseForgotten(ctx, in, untrusted); err != nil {
		return 0, fmt.Errorf("mark the instance's pending uploads as lost: %w", err)
	}
	if _, err := r.o.Members.Forget(ctx, id); err != nil {
		return 0, fmt.Errorf("remove the instance from the ring: %w: %w", wire.ErrUnavailable, err)
	}
	if err := r.o.Store.ForgetAsides(ctx, id); err != nil {
		r.o.Logger.Warn("records of dropped series of a forgotten instance are left", "instance", id, "err", err)
	}
	return windows, nil
}

// loseForgotten marks what an instance had not uploaded as lost, and waits until
// every querier knows. It returns how many windows that are.
func (r *Recovery) loseForgotten(ctx context.Context, in *ring.Instance, untrusted bool) (windows int, err error) {
	var also []store.Window
	switch {
	case len(in.Tokens) > 0:
		also = r.lastWindows()
	case !untrusted:
		return 0, nil // it is no ingester
	}
	windows, err = r.o.Store.Lose(ctx, in.ID, in.Incarnation, in.Zone, also)
	if err == nil && untrusted && windows > 0 { // it was an ingester
		var more int
		more, err = r.o.Store.Lose(ctx, in.ID, in.Incarnation, in.Zone, r.lastWindows())
		windows += more
	}
	if err != nil || windows == 0 && untrusted {
		return windows, err
	}
	return windows, r.o.Wait(ctx, lossesKnown)
}
