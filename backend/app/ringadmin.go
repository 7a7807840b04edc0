package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/backend/ring"
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

func answerJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func answerError(w http.ResponseWriter, code int, name, message string) {
	answerJSON(w, code, map[string]string{"code": name, "message": message})
}

func (a *App) showRing(w http.ResponseWriter, r *http.Request) {
	list, err := a.memberList(r.Context())
	if err != nil {
		answerError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	losses, err := a.longTerm.Losses(r.Context())
	if err != nil {
		a.opts.Logger.Error("losses of ingesters could not be read", "err", err)
		answerError(w, http.StatusServiceUnavailable, "unavailable", "what lost ingesters owed could not be read, see the log")
		return
	}
	lost := []map[string]any{}
	for _, l := range losses {
		lost = append(lost, map[string]any{"ingester": l.Ingester, "zone": l.Zone, "day": l.Window.Day, "window": l.Window.Number})
	}
	answerJSON(w, http.StatusOK, map[string]any{"members": list, "losses": lost})
}

// forget takes an instance out of the ring that will not come back. What it had
// not uploaded stays known as lost.
func (a *App) forget(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("instance")
	now, err := a.members.Ring(r.Context())
	if err != nil {
		answerError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	all := slices.Concat(now.Instances(), now.Others())
	i := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if i < 0 {
		answerError(w, http.StatusNotFound, "not_found", fmt.Sprintf("instance %q is not in the ring; GET %s/ring lists its members", id, admin.Root))
		return
	}
	const alive = 15 * time.Second
	if in := &all[i]; in.Silent < alive && r.URL.Query().Get("force") != "true" {
		answerError(w, http.StatusConflict, "conflict", fmt.Sprintf("instance %s is alive: its last heartbeat is %s old. Stop it first; to take a running ingester out without loss, POST %s/ring/leave to it", id, in.Silent.Round(time.Second), admin.Root))
		return
	}
	if err := a.refuseAside(r.Context(), id); err != nil {
		if !errors.Is(err, errHasAside) {
			a.opts.Logger.Error("forget an instance", "instance", id, "err", err)
			answerError(w, http.StatusServiceUnavailable, "unavailable", "what the instance set aside could not be read, see the log; it was not forgotten")
			return
		}
		answerError(w, http.StatusConflict, "conflict", fmt.Sprintf("instance %s was not forgotten: %s", id, err))
		return
	}
	owed := 0
	if in := &all[i]; len(in.Tokens) > 0 {
		if owed, err = a.longTerm.Lose(r.Context(), in.ID, in.Incarnation, in.Zone, a.lastWindows()); err != nil {
			a.opts.Logger.Error("forget an instance", "instance", id, "err", err)
			answerError(w, http.StatusServiceUnavailable, "unavailable", "what the instance owed could not be marked as lost, see the log; it was not forgotten")
			return
		}
		if err := a.waitForLosses(r.Context()); err != nil {
			return
		}
	}
	if _, err := a.members.Forget(r.Context(), id); err != nil {
		answerError(w, http.StatusServiceUnavailable, "unavailable", err.Error())
		return
	}
	if err := a.longTerm.ForgetAsides(r.Context(), id); err != nil {
		a.opts.Logger.Warn("records of dropped series of a forgotten instance are left", "instance", id, "err", err)
	}
	if owed > 0 {
		a.background.Go(func() { a.restore(a.running, id) })
	}
	a.opts.Logger.Warn("an operator had an instance forgotten", "instance", id, "windows_owed", owed)
	answerJSON(w, http.StatusOK, map[string]any{"status": "done", "windowsOwed": owed})
}

// leaveRing takes this ingester out of the cluster. With wait=true it answers
// when the process may be stopped and its disk deleted.
func (a *App) leaveRing(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("wait") != "true" {
		a.background.Go(func() {
			if err := a.leaving.run(a.running); err != nil {
				a.opts.Logger.Error("leaving the ring failed; repeat the command", "err", err)
			}
		})
		answerJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
		return
	}
	if err := a.leaving.run(r.Context()); errors.Is(err, errHasAside) {
		answerError(w, http.StatusConflict, "conflict", "this ingester does not leave: "+err.Error())
		return
	} else if err != nil {
		a.opts.Logger.Error("leaving the ring failed", "err", err)
		answerError(w, http.StatusServiceUnavailable, "unavailable", "leaving failed, nothing is lost: "+err.Error())
		return
	}
	answerJSON(w, http.StatusOK, map[string]string{"status": "done", "message": "everything is uploaded and the ring knows; stop the process, its disk is not needed any more"})
}

// forwardActions passes the operator's commands on to the backend.
func (a *App) forwardActions(r chi.Router) {
	target, err := url.Parse(a.cfg.Upstream.URLs[0])
	if err != nil { // checked by the gateway, too
		return
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.DialContext = a.dialBackend()
	transport.DialTLSContext = transport.DialContext
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.Out.Header = http.Header{}
		},
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			a.opts.Logger.Error("passing a command on to the backend failed", "err", err)
			answerError(w, http.StatusServiceUnavailable, "unavailable", "the backend cannot be reached, see the log")
		},
	}
	for _, route := range []string{"/flush", "/compact", "/compact/accept-loss", "/ring/forget", "/aside/drop"} {
		r.Method(http.MethodPost, route, proxy)
	}
	for _, route := range []string{"/erasures/{tenant}", "/ring", "/aside"} {
		r.Method(http.MethodGet, route, proxy)
	}
}
