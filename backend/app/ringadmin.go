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

	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/wire"
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
	windows, err := a.recovery.Forget(r.Context(), id, force)
	switch {
	case errors.Is(err, recovery.ErrNotMember):
		return admin.Fail(http.StatusNotFound, "instance", "%s; GET %s/ring lists its members", err, admin.Root)
	case errors.Is(err, recovery.ErrAlive):
		return admin.Fail(http.StatusConflict, "instance", "instance %s was not forgotten: %s. Stop it first; "+
			"to take a running ingester out without loss, POST %s/ring/leave?instance=%s", id, err, admin.Root, id)
	case errors.Is(err, recovery.ErrHasAside):
		return admin.Fail(http.StatusConflict, "instance", "instance %s was not forgotten: %s", id, err)
	case errors.Is(err, wire.ErrUnavailable):
		return admin.Fail(http.StatusServiceUnavailable, "", "instance %s was not forgotten: %s", id, err)
	case err != nil:
		return a.failed(r, err, "the instance was not forgotten")
	}
	if windows > 0 {
		a.background.Go(func() { a.recovery.Restore(a.running, id) })
	}
	a.opts.Logger.Warn("an operator had an instance forgotten", "instance", id, "windows_owed", windows)
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "windowsOwed": windows})
	return nil
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
	case o.a.leaver == nil:
		return fmt.Errorf("%w: it is no ingester", rpc.ErrConflict)
	case !wait:
		o.a.background.Go(func() {
			if err := o.a.leaver.Leave(o.a.running); err != nil {
				o.a.opts.Logger.Error("leaving the ring failed; repeat the command", "err", err)
			}
		})
		return nil
	}
	err := o.a.leaver.Leave(ctx)
	if errors.Is(err, recovery.ErrHasAside) || errors.Is(err, recovery.ErrLeaving) {
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
