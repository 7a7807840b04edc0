package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/compactor"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/gateway/admin"
)

// operatorRoot is where a backend serves the operator's commands for gateways,
// which have checked and audited them.
const operatorRoot = "/internal/operator"

// command is one of the operator's commands beside the rest of the admin API. One
// process carries it out for all of the cluster; a gateway passes it on to one.
type command struct {
	method, path string
	params       []string
	cluster      bool // it is of a cluster only
	do           func(*App, http.ResponseWriter, *http.Request, url.Values) error
}

func commands() []command {
	return []command{
		{http.MethodPost, "/flush", []string{"wait", "instance"}, false, (*App).flush},
		{http.MethodPost, "/compact", []string{"wait", "expire", "instance"}, false, (*App).compact},
		{http.MethodPost, "/compact/accept-loss", []string{"day"}, false, (*App).acceptLoss},
		{http.MethodGet, "/erasures/{tenant}", nil, false, (*App).erasure},
		{http.MethodGet, "/aside", nil, false, (*App).listAside},
		{http.MethodPost, "/aside/drop", []string{"day", "window", "ingester", "tenant"}, false, (*App).dropAside},
		{http.MethodGet, "/status", nil, false, (*App).showStatus},
		{http.MethodGet, "/ring", nil, true, (*App).showRing},
		{http.MethodPost, "/ring/forget", []string{"instance", "force"}, true, (*App).forget},
		{http.MethodPost, "/ring/leave", []string{"instance", "wait"}, true, (*App).leaveRing},
	}
}

// commandRoutes adds the commands that this process carries out or, a gateway of
// a cluster, passes on. A gateway before another backend has none.
func (a *App) commandRoutes(r chi.Router) {
	if a.toBackend != nil {
		for _, c := range commands() {
			r.Method(c.method, c.path, a.toBackend)
		}
	}
	if a.longTerm == nil {
		return
	}
	for _, c := range commands() {
		if c.cluster && a.members == nil {
			continue
		}
		r.Method(c.method, c.path, admin.Serve(func(w http.ResponseWriter, r *http.Request) error {
			q, err := admin.Query(r, c.params...)
			if err != nil {
				return err
			}
			return c.do(a, w, r, q)
		}, a.opts.Logger))
	}
}

// failed is the answer when something went wrong that the log tells more about.
func (a *App) failed(r *http.Request, err error, message string) error {
	a.opts.Logger.Error("operator's command failed", "path", r.URL.Path, "request", admin.RequestID(r), "err", err)
	status := http.StatusInternalServerError
	for _, temporary := range []error{wire.ErrUnavailable, wire.ErrRefused, errNobody, context.DeadlineExceeded} {
		if errors.Is(err, temporary) {
			status = http.StatusServiceUnavailable
		}
	}
	return admin.Fail(status, "", "%s; see the log of the backend for request %s", message, admin.RequestID(r))
}

// errNobody is returned when no process can carry out a command.
var errNobody = errors.New("no process can carry it out")

// begin carries out what may take long: with wait=true it answers what do returns,
// else at once.
func (a *App) begin(w http.ResponseWriter, r *http.Request, q url.Values, what string,
	do func(context.Context) (map[string]any, error)) error {
	wait, err := flag(q, "wait")
	if err != nil {
		return err
	}
	if !wait {
		path := r.URL.Path
		a.background.Go(func() {
			if _, err := do(a.running); err != nil {
				a.opts.Logger.Error("operator's command failed", "path", path, "err", err)
			}
		})
		admin.WriteJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
		return nil
	}
	out, err := do(r.Context())
	if err != nil {
		return a.failed(r, err, what)
	}
	if out == nil {
		out = map[string]any{}
	}
	out["status"] = "done"
	admin.WriteJSON(w, http.StatusOK, out)
	return nil
}

// flag reads a parameter that is true or false, which it is when it is left out.
func flag(q url.Values, name string) (bool, error) {
	switch q.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, admin.Fail(http.StatusBadRequest, name, "%s must be true or false", name)
}

// instance finds the one that a command names, which must have a role. Without
// other processes there is this one alone.
func (a *App) instance(ctx context.Context, id string, role Target) (*rpc.Peer, error) {
	if a.members == nil {
		if id == soleIngester {
			return nil, nil
		}
		return nil, admin.Fail(http.StatusNotFound, "instance", "there is one process, instance %s", soleIngester)
	}
	in, err := a.member(ctx, id)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(in.Roles, string(role)) {
		return nil, admin.Fail(http.StatusBadRequest, "instance", "instance %s has not the role %s", id, role)
	}
	return a.pool.Peer(in.Addr)
}

// member finds an instance in the ring.
func (a *App) member(ctx context.Context, id string) (*ring.Instance, error) {
	r, err := a.members.Ring(ctx)
	if err != nil {
		return nil, admin.Fail(http.StatusServiceUnavailable, "", "the ring is not known: %s", err)
	}
	all := slices.Concat(r.Instances(), r.Others())
	i := slices.IndexFunc(all, func(in ring.Instance) bool { return in.ID == id })
	if i < 0 {
		return nil, admin.Fail(http.StatusNotFound, "instance", "instance %q is not in the ring; GET %s/ring lists its members", id, admin.Root)
	}
	return &all[i], nil
}

// flush seals everything in memory and uploads it: of all ingesters, or of one.
func (a *App) flush(w http.ResponseWriter, r *http.Request, q url.Values) error {
	do := a.flushAll
	if id := q.Get("instance"); id != "" {
		p, err := a.instance(r.Context(), id, TargetIngester)
		if err != nil {
			return err
		}
		if p != nil {
			do = p.Flush
		}
	}
	return a.begin(w, r, q, "flush failed: nothing is lost, what was not sealed stays in memory and in the write-ahead log",
		func(ctx context.Context) (map[string]any, error) { return nil, do(ctx) })
}

// flushAll seals the head and uploads what is sealed, of all ingesters.
func (a *App) flushAll(ctx context.Context) error {
	if a.members == nil {
		return a.flushOwn(ctx)
	}
	return a.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error { return p.Flush(ctx) })
}

// flushOwn is flushAll of this process's ingester.
func (a *App) flushOwn(ctx context.Context) error {
	if err := a.ingester.Flush(); err != nil {
		return err
	}
	return a.ingester.Upload(ctx)
}

// compact compacts everything that is uploaded, open days too. With expire=all it
// takes all days that are beyond retention after that.
func (a *App) compact(w http.ResponseWriter, r *http.Request, q url.Values) error {
	expire := q.Get("expire")
	if expire != "" && expire != "all" {
		return admin.Fail(http.StatusBadRequest, "expire", `expire must be "all"`)
	}
	do := a.compactAll
	if id := q.Get("instance"); id != "" {
		p, err := a.instance(r.Context(), id, TargetCompactor)
		if err != nil {
			return err
		}
		if p != nil {
			do = p.Compact
		}
	}
	return a.begin(w, r, q, "compaction failed: nothing is lost, what was not compacted stays where it was",
		func(ctx context.Context) (map[string]any, error) {
			report, err := do(ctx, expire == "all")
			return map[string]any{"days": report.Days, "published": report.Published, "series": report.Series, "samples": report.Samples}, err
		})
}

// compactAll compacts what is uploaded, here or where a live compactor is.
func (a *App) compactAll(ctx context.Context, expire bool) (compactor.Report, error) {
	if a.compactor != nil {
		report, err := a.compactor.Compact(ctx, compactor.All)
		if err == nil && expire {
			err = a.compactor.ExpireAll(ctx)
		}
		return report, err
	}
	r, err := a.members.Ring(ctx)
	if err != nil {
		return compactor.Report{}, err
	}
	errs := fmt.Errorf("%w: no compactor is in the ring, or none answers", errNobody)
	for _, in := range slices.Concat(r.Others(), r.Instances()) {
		if !slices.Contains(in.Roles, string(TargetCompactor)) || in.Unhealthy {
			continue
		}
		p, err := a.pool.Peer(in.Addr)
		if err == nil {
			var report compactor.Report
			if report, err = p.Compact(ctx, expire); err == nil {
				return report, nil
			}
		}
		if err = fmt.Errorf("compactor %s: %w", in.ID, err); !errors.Is(err, wire.ErrUnavailable) {
			return compactor.Report{}, err // another one would fail as well
		}
		errs = errors.Join(errs, err)
	}
	return compactor.Report{}, errs
}

// acceptLoss lets a day be compacted although ingesters that owe samples of it
// are lost. These need not answer. Without replicas an ingester itself remembers
// what its log lost, and is told.
func (a *App) acceptLoss(w http.ResponseWriter, r *http.Request, q url.Values) error {
	day, err := strconv.ParseInt(q.Get("day"), 10, 64)
	if err != nil {
		return admin.Fail(http.StatusBadRequest, "day", "day must be the number of a UTC day since 1970, as the log and the operator page name it")
	}
	n, err := a.longTerm.AcceptLoss(r.Context(), day)
	if err == nil {
		var lost int
		lost, err = a.acceptLogLoss(r.Context(), day)
		n += lost
	}
	if err != nil {
		return a.failed(r, err, fmt.Sprintf("not all losses of day %d could be accepted, repeat the command", day))
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"status": "done", "intents": n})
	return nil
}

func (a *App) acceptLogLoss(ctx context.Context, day int64) (int, error) {
	if a.members == nil {
		return a.ingester.AcceptLoss(day)
	}
	if a.cfg.Cluster.Replication > 1 {
		return 0, nil // replicas make good what a log lost
	}
	var accepted atomic.Int64
	err := a.eachIngester(ctx, func(ctx context.Context, p *rpc.Peer) error {
		n, err := p.AcceptLoss(ctx, day)
		accepted.Add(int64(n))
		return err
	})
	return int(accepted.Load()), err
}

// erasure reports what was erased of a deleted tenant.
func (a *App) erasure(w http.ResponseWriter, r *http.Request, _ url.Values) error {
	id, err := tenant.ParseID(admin.Param(r, "tenant"))
	if err != nil {
		return admin.Fail(http.StatusBadRequest, "tenant", "%s", err)
	}
	deleted, err := a.deletedAt(r.Context(), id)
	if err != nil {
		return a.failed(r, err, "the report could not be read")
	}
	if deleted == nil {
		return admin.Fail(http.StatusNotFound, "tenant", "tenant %q is not a deleted tenant", id)
	}
	var e index.Erased
	if e, err = a.lifecycle.Erasure(r.Context(), id); err != nil {
		return a.failed(r, err, "the report could not be read")
	}
	admin.WriteJSON(w, http.StatusOK, map[string]any{"tenant": id, "deletedAt": deleted.DeletedAt.UTC(), "erasedObjects": e.Objects,
		"erasedBytes": e.Bytes, "erasedIndex": e.Rows, "sharedPacksGoneBy": deleted.DeletedAt.Add(l0Gone).UTC()})
	return nil
}

// deletedAt finds a tenant that was deleted; nil if it was not.
func (a *App) deletedAt(ctx context.Context, id tenant.ID) (*control.Tenant, error) {
	var found *control.Tenant
	err := a.control.AllTenants(ctx, func(t control.Tenant) bool {
		if t.ID == id && t.Deleted() {
			found = &t
		}
		return t.ID != id
	})
	return found, err
}
