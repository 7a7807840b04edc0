// Package operator serves the operator's routes of the admin API: flush and compact,
// losses, erasures, series that were set aside, queries in progress, the status, the ring, and the
// overview page. Each command is executed by one process for the whole cluster; a gateway of a
// cluster forwards it to a backend. docs/admin-api.md describes the routes for users.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/admin"
)

// Root is the path prefix at which a backend serves the commands for gateways, which have
// authenticated and audited them.
const Root = "/internal/operator"

// Backend executes commands for the whole cluster, or for the only process. For a wrong command,
// methods return an error of admin.Fail, which is sent to the client. For a command that may
// succeed later, the error wraps ErrUnavailable. Implementations do not log errors: Commands logs
// each error that is not an error of admin.Fail, with the ID of the request.
type Backend interface {
	// Flush seals and uploads everything in memory: of all ingesters, or only of the
	// named instance.
	Flush(ctx context.Context, instance string) (Task, error)
	// Compact compacts everything that is uploaded, including open days; with expireAll
	// it then deletes all days beyond retention.
	Compact(ctx context.Context, instance string, expireAll bool) (Task, error)
	// AcceptLoss allows a day (counted since 1970) to be compacted and queried without its
	// lost samples. It returns the number of losses that it accepted.
	AcceptLoss(ctx context.Context, day int64) (int, error)
	// Losses lists the windows with losses that AcceptLoss can accept.
	Losses(context.Context) ([]Loss, error)
	// Erasure reports how much data of a deleted tenant was erased. It returns nil for any
	// other tenant.
	Erasure(context.Context, tenant.ID) (*Erasure, error)
	// Asides lists series that no pack could hold, ordered by day, window, ingester and
	// tenant.
	Asides(context.Context) ([]Aside, error)
	// DropAside marks the series of one record for deletion by the ingester. It returns
	// ErrNoAside if the record does not exist. If the ingester is lost, DropAside deletes
	// the record itself, and the result `lost` is true.
	DropAside(ctx context.Context, key AsideKey) (dropped Aside, lost bool, err error)
	// EndQuery ends a query of a tenant, and returns it as JSON; nil if no process has it.
	EndQuery(ctx context.Context, id string) (json.RawMessage, error)
	// Status returns the JSON that the overview page shows.
	Status(context.Context) (json.RawMessage, error)
}

// Ring has the additional operations of a cluster's backend.
type Ring interface {
	// Members lists everything in the ring, ingesters first, and then the entries that are
	// Untrusted.
	Members(context.Context) ([]Member, error)
	// LostIngesters lists the windows that lost ingesters had not uploaded and that their
	// replicas have not uploaded yet.
	LostIngesters(context.Context) ([]Loss, error)
	// Forget removes from the ring an instance that will not come back; the instance need not
	// be reachable. It returns the number of windows that replicas must upload.
	Forget(ctx context.Context, instance string, force bool) (windows int, err error)
	// Leave removes an ingester from the cluster without loss. With wait it returns when
	// the ingester's process may be stopped and its disk deleted.
	Leave(ctx context.Context, instance string, wait bool) error
}

// Task is the work of a command that may take long. Its results are sent to the client if it waits.
type Task func(context.Context) (results map[string]any, err error)

var (
	// ErrUnavailable is wrapped by errors of commands that may succeed when repeated.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrNoAside is returned if there is no record with the given key.
	ErrNoAside = errors.New("no series of that tenant and window are set aside by that ingester")
)

// Erasure reports how much data of a deleted tenant was erased.
type Erasure struct {
	Tenant    tenant.ID `json:"tenant"`
	DeletedAt time.Time `json:"deletedAt"`
	Objects   int       `json:"erasedObjects"`
	Bytes     int64     `json:"erasedBytes"`
	Rows      bool      `json:"erasedIndex"`
	// SharedBy is the time by which all packs that also have data of other tenants are free
	// of the deleted tenant's data.
	SharedBy time.Time `json:"sharedPacksGoneBy"`
}

// AsideKey identifies a record of series that were set aside.
type AsideKey struct {
	Ingester string    `json:"ingester"`
	Tenant   tenant.ID `json:"tenant"`
	Day      int64     `json:"day"`
	Window   int       `json:"window"`
}

// Aside is a record of series that were set aside.
type Aside struct {
	AsideKey
	Zone    string     `json:"zone,omitempty"`
	Since   time.Time  `json:"since"`
	Series  int64      `json:"series"`
	Samples int64      `json:"samples"`
	Bytes   int64      `json:"bytes"`
	Reason  string     `json:"reason"`
	Dropped *time.Time `json:"dropped,omitempty"`
}

// Untrusted is the state of an entry in Redis that no process trusts and that is therefore
// not a member of the ring. Only its ID is known.
const Untrusted = "UNTRUSTED"

// Member is one row of the ring.
type Member struct {
	ID          string    `json:"id"`
	Address     string    `json:"address"`
	Zone        string    `json:"zone"`
	Roles       []string  `json:"roles"`
	State       string    `json:"state"`
	Unhealthy   bool      `json:"unhealthy"`
	Since       string    `json:"sinceHeartbeat"` // since the last heartbeat
	Registered  time.Time `json:"registered,omitzero"`
	Tokens      int       `json:"tokens"`
	Share       float64   `json:"share"` // fraction of all replicas of series
	Incarnation string    `json:"incarnation,omitempty"`
}

// Loss is a window with lost samples: of a lost ingester, until its replicas have uploaded
// the window, or of an ingester without replicas whose write-ahead log is damaged.
type Loss struct {
	Ingester string `json:"ingester"`
	Zone     string `json:"zone"`
	// Tenant is the only tenant that may have lost samples; empty if any may.
	Tenant tenant.ID `json:"tenant,omitempty"`
	Day    int64     `json:"day"`
	Window int       `json:"window"`
}

// Options are the options of New. Ring is nil without a cluster.
type Options struct {
	Backend Backend
	Ring    Ring
	// Background runs a function that continues after the response was sent. Its context
	// ends with the process.
	Background func(func(context.Context))
	Logger     *slog.Logger
}

// Commands serves the routes of the process that executes commands.
type Commands struct{ o Options }

// New returns Commands.
func New(o Options) *Commands { return &Commands{o: o} }

// command is one of the operator's routes of the admin API.
type command struct {
	method, path string
	params       []string
	cluster      bool // only available in a cluster
	do           func(*Commands, http.ResponseWriter, *http.Request, url.Values) error
}

func commands() []command {
	return []command{
		{http.MethodPost, "/flush", []string{"wait", "instance"}, false, (*Commands).flush},
		{http.MethodPost, "/compact", []string{"wait", "expire", "instance"}, false, (*Commands).compact},
		{http.MethodPost, "/compact/accept-loss", []string{"day"}, false, (*Commands).acceptLoss},
		{http.MethodGet, "/losses", []string{"pageSize", "pageCursor"}, false, (*Commands).listLosses},
		{http.MethodGet, "/erasures/{tenant}", nil, false, (*Commands).erasure},
		{http.MethodGet, "/aside", []string{"pageSize", "pageCursor"}, false, (*Commands).listAside},
		{http.MethodPost, "/aside/drop", []string{"day", "window", "ingester", "tenant"}, false, (*Commands).dropAside},
		{http.MethodGet, "/status", nil, false, (*Commands).showStatus},
		{http.MethodPost, "/queries/end", []string{"id"}, false, (*Commands).endQuery},
		{http.MethodGet, "/ring", nil, true, (*Commands).showRing},
		{http.MethodPost, "/ring/forget", []string{"instance", "force"}, true, (*Commands).forget},
		{http.MethodPost, "/ring/leave", []string{"instance", "wait"}, true, (*Commands).leave},
	}
}

// Routes adds the routes of commands that this process executes.
func (c *Commands) Routes(r chi.Router) {
	for _, cmd := range commands() {
		r.Method(cmd.method, cmd.path, admin.Serve(func(w http.ResponseWriter, r *http.Request) error {
			if cmd.cluster && c.o.Ring == nil {
				return admin.Fail(http.StatusNotFound, "", "this Pallium runs as a single process and has no ring")
			}
			q, err := admin.Query(r, cmd.params...)
			if err != nil {
				return err
			}
			return cmd.do(c, w, r, q)
		}, c.o.Logger))
	}
}

// Routes adds the routes of all commands, which are forwarded.
func (f *Forwarder) Routes(r chi.Router) {
	for _, cmd := range commands() {
		r.Method(cmd.method, cmd.path, f)
	}
}

// failed logs an error of a command and returns the error for the client, which has the ID of
// the request but not the cause.
func (c *Commands) failed(r *http.Request, err error, message string) error {
	if admin.IsProblem(err) {
		return err
	}
	c.o.Logger.Error("operator command failed", "path", r.URL.Path, "request", admin.RequestID(r), "err", err)
	status := http.StatusInternalServerError
	if errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		status = http.StatusServiceUnavailable
	}
	return admin.Fail(status, "", "%s; search the backend's log for request %s", message, admin.RequestID(r))
}

// begin runs a task. With wait=true it responds with the task's results, otherwise it responds at
// once and the task continues in the background.
func (c *Commands) begin(w http.ResponseWriter, r *http.Request, q url.Values, what string, do Task) error {
	wait, err := admin.Flag(q, "wait")
	if err != nil {
		return err
	}
	if !wait {
		path, request := r.URL.Path, admin.RequestID(r)
		c.o.Background(func(ctx context.Context) {
			if _, err := do(ctx); err != nil {
				c.o.Logger.Error("operator command failed", "path", path, "request", request, "err", err)
			}
		})
		admin.WriteJSON(w, http.StatusAccepted, map[string]string{"status": "started"})
		return nil
	}
	out, err := do(r.Context())
	if err != nil {
		return c.failed(r, err, what)
	}
	if out == nil {
		out = map[string]any{}
	}
	out["status"] = "done"
	admin.WriteJSON(w, http.StatusOK, out)
	return nil
}
