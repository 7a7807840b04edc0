package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/gateway/admin"
)

// member is one row of the ring as the operator sees it.
type member struct {
	ID          string     `json:"id"`
	Address     string     `json:"address"`
	Zone        string     `json:"zone"`
	Roles       []string   `json:"roles"`
	State       ring.State `json:"state"`
	Unhealthy   bool       `json:"unhealthy"`
	Silent      string     `json:"silent"` // since the last heartbeat
	Registered  time.Time  `json:"registered"`
	Tokens      int        `json:"tokens"`
	Share       float64    `json:"share"` // of the series, one of which has as many replicas as there are
	Incarnation string     `json:"incarnation,omitempty"`
}

// memberList lists everything in the ring, ingesters first.
func (a *App) memberList(ctx context.Context) ([]member, error) {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, err
	}
	shares := r.Shares(a.cfg.Cluster.Replication)
	out := []member{}
	for i, in := range slices.Concat(r.Instances(), r.Others()) {
		m := member{ID: in.ID, Address: in.Addr, Zone: in.Zone, Roles: in.Roles, State: in.State, Unhealthy: in.Unhealthy,
			Silent: in.Silent.Round(time.Second / 10).String(), Registered: in.Registered.UTC(), Tokens: len(in.Tokens), Incarnation: in.Incarnation}
		if i < len(shares) {
			m.Share = shares[i]
		}
		out = append(out, m)
	}
	return out, nil
}

// showRing lists the members of the ring and what lost ones had not uploaded.
func (a *App) showRing(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	list, err := a.memberList(r.Context())
	if err != nil {
		return admin.Fail(http.StatusServiceUnavailable, "", "the ring is not known: %s", err)
	}
	losses, err := a.longTerm.Losses(r.Context())
	if err != nil {
		return a.failed(r, err, "the losses of ingesters could not be read")
	}
	lost := []map[string]any{}
	for _, l := range losses {
		lost = append(lost, map[string]any{"ingester": l.Ingester, "zone": l.Zone, "day": l.Window.Day, "window": l.Window.Number})
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"members": list, "losses": lost})
	return nil
}

// forget takes an instance out of the ring that will not come back, and that need
// not answer. What it had not uploaded stays known as lost.
func (a *App) forget(w http.ResponseWriter, r *http.Request, q url.Values) error {
	id := q.Get("instance")
	force, err := flag(q, "force")
	if err != nil {
		return err
	}
	if id == "" {
		return admin.Fail(http.StatusBadRequest, "instance",
			"instance is missing: which one is to be forgotten? GET %s/ring lists them", admin.Root)
	}
	in := &ring.Instance{ID: id}
	untrusted := a.members.Distrusts(id) // then nothing is known of it but its name
	if !untrusted {
		if in, err = a.member(r.Context(), id); err != nil {
			return err
		}
	}
	const alive = 15 * time.Second
	if in.Silent < alive && !force && !untrusted {
		return admin.Fail(http.StatusConflict, "instance", "instance %s is alive: its last heartbeat is %s old. Stop it first; "+
			"to take a running ingester out without loss, POST %s/ring/leave?instance=%s",
			in.ID, in.Silent.Round(time.Second), admin.Root, in.ID)
	}
	if err := a.refuseAside(r.Context(), in.ID); errors.Is(err, errHasAside) {
		return admin.Fail(http.StatusConflict, "instance", "instance %s was not forgotten: %s", in.ID, err)
	} else if err != nil {
		return a.failed(r, err, "what the instance set aside could not be read; it was not forgotten")
	}
	owed, err := a.loseForgotten(r.Context(), in, untrusted)
	if err != nil {
		return a.failed(r, err, "the instance's pending uploads could not be marked as lost; it was not forgotten")
	}
	if _, err := a.members.Forget(r.Context(), in.ID); err != nil {
		return admin.Fail(http.StatusServiceUnavailable, "", "the instance could not be removed from the ring: %s", err)
	}
	if err := a.longTerm.ForgetAsides(r.Context(), in.ID); err != nil {
		a.opts.Logger.Warn("records of dropped series of a forgotten instance are left", "instance", in.ID, "err", err)
	}
	if owed > 0 {
		a.background.Go(func() { a.restore(a.running, in.ID) })
	}
	a.opts.Logger.Warn("an operator had an instance forgotten", "instance", in.ID, "windows_owed", owed)
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "windowsOwed": owed})
	return nil
}

// loseForgotten marks what an instance had not uploaded as lost, and waits until
// every querier knows. It returns how many windows that are.
func (a *App) loseForgotten(ctx context.Context, in *ring.Instance, untrusted bool) (owed int, err error) {
	var also []store.Window
	switch {
	case len(in.Tokens) > 0:
		also = a.lastWindows()
	case !untrusted:
		return 0, nil // it is no ingester
	}
	owed, err = a.longTerm.Lose(ctx, in.ID, in.Incarnation, in.Zone, also)
	if err == nil && untrusted && owed > 0 { // it was an ingester
		var more int
		more, err = a.longTerm.Lose(ctx, in.ID, in.Incarnation, in.Zone, a.lastWindows())
		owed += more
	}
	if err != nil || owed == 0 && untrusted {
		return owed, err
	}
	return owed, a.waitForLosses(ctx)
}

// leaveRing takes an ingester out of the cluster. With wait=true it answers when
// that process may be stopped and its disk deleted.
func (a *App) leaveRing(w http.ResponseWriter, r *http.Request, q url.Values) error {
	id := q.Get("instance")
	wait, err := flag(q, "wait")
	if err != nil {
		return err
	}
	if id == "" {
		return admin.Fail(http.StatusBadRequest, "instance",
			"instance is missing: which ingester is to leave? GET %s/ring lists them", admin.Root)
	}
	p, err := a.instance(r.Context(), id, TargetIngester)
	if err != nil {
		return err
	}
	err = p.Leave(r.Context(), wait)
	switch {
	case errors.Is(err, rpc.ErrConflict):
		return admin.Fail(http.StatusConflict, "instance", "ingester %s does not leave: %s", id, err)
	case err != nil:
		a.opts.Logger.Error("leaving the ring failed", "instance", id, "request", admin.RequestID(r), "err", err)
		return admin.Fail(http.StatusServiceUnavailable, "", "leaving failed, nothing is lost; repeat the command: %s", err)
	case !wait:
		admin.WriteJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
	default:
		admin.WriteJSON(w, http.StatusOK, map[string]string{"status": "done",
			"message": "everything is uploaded and the ring knows; stop the process, its disk is not needed any more"})
	}
	return nil
}

// operator is this process for the operator's commands of others; it implements
// rpc.Operator.
type operator struct{ a *App }

// Leave implements rpc.Operator.
func (o operator) Leave(ctx context.Context, wait bool) error {
	switch {
	case o.a.leaving == nil:
		return fmt.Errorf("%w: it is no ingester", rpc.ErrConflict)
	case !wait:
		o.a.background.Go(func() {
			if err := o.a.leaving.run(o.a.running); err != nil {
				o.a.opts.Logger.Error("leaving the ring failed; repeat the command", "err", err)
			}
		})
		return nil
	}
	err := o.a.leaving.run(ctx)
	if errors.Is(err, errHasAside) || errors.Is(err, errLeaving) {
		return fmt.Errorf("%w: %w", rpc.ErrConflict, err)
	}
	return err
}

// AcceptLoss implements rpc.Operator.
func (o operator) AcceptLoss(day int64) (int, error) {
	if o.a.ingester == nil {
		return 0, nil
	}
	return o.a.ingester.AcceptLoss(day)
}

// Status implements rpc.Operator.
func (o operator) Status(context.Context) ([]byte, error) { return json.Marshal(o.a.ownStatus()) }
