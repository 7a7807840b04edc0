// Package operator has the operator's routes of the admin API: flush and compact,
// losses, series that were set aside, the ring, and the overview page. Each command is
// carried out by one process for all of the cluster; a gateway of a cluster passes it
// on to a backend. docs/admin-api.md describes the routes for users.
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

// Root is where a backend serves the commands for gateways, which have checked and
// audited them.
const Root = "/internal/operator"

// Backend carries out commands for all of the cluster, or for one process that is all
// there is. Errors are those of the admin package's Fail for what is wrong with a
// command, ErrUnavailable for what may succeed later, and others, which are logged.
type Backend interface {
	// Flush seals everything in memory and uploads it: of all ingesters, or of the
	// instance that is named.
	Flush(ctx context.Context, instance string) (Task, error)
	// Compact compacts everything that is uploaded, open days too; with expireAll it
	// takes all days that are beyond retention after that.
	Compact(ctx context.Context, instance string, expireAll bool) (Task, error)
	// AcceptLoss lets a day (since 1970) be compacted although ingesters with pending
	// uploads of it are lost. It returns how many windows that are.
	AcceptLoss(ctx context.Context, day int64) (int, error)
	// Erasure reports what was erased of a deleted tenant; nil for any other tenant.
	Erasure(context.Context, tenant.ID) (*Erasure, error)
	// Asides lists series that no pack could hold, in the order of day, window,
	// ingester and tenant.
	Asides(context.Context) ([]Aside, error)
	// DropAside gives the series of one record up; ErrNoAside without it. lost reports
	// whether the ingester is lost: then the record is gone.
	DropAside(ctx context.Context, key AsideKey) (dropped Aside, lost bool, err error)
	// Status is what the overview shows, as JSON.
	Status(context.Context) (json.RawMessage, error)
}

// Ring is what the backend of a cluster can do beside.
type Ring interface {
	// Members lists everything in the ring, ingesters first.
	Members(context.Context) ([]Member, error)
	Losses(context.Context) ([]Loss, error)
	// Forget takes an instance out of the ring that will not come back, and that need
	// not answer. It returns how many windows were pending that others must upload.
	Forget(ctx context.Context, instance string, force bool) (windows int, err error)
	// Leave takes an ingester out of the cluster without loss. With wait it returns
	// when that process may be stopped and its disk deleted.
	Leave(ctx context.Context, instance string, wait bool) error
}

// Task is work that may take long. Its results are shown to who waits for them.
type Task func(context.Context) (results map[string]any, err error)

var (
	// ErrUnavailable is in errors of what may succeed when it is repeated.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrNoAside is returned when there is no such record.
	ErrNoAside = errors.New("nothing is recorded as set aside by that ingester for that tenant and window")
)

// Erasure is what was erased of a deleted tenant.
type Erasure struct {
	Tenant    tenant.ID `json:"tenant"`
	DeletedAt time.Time `json:"deletedAt"`
	Objects   int       `json:"erasedObjects"`
	Bytes     int64     `json:"erasedBytes"`
	Rows      bool      `json:"erasedIndex"`
	// SharedBy is when packs that hold many tenants have nothing of it any more.
	SharedBy time.Time `json:"sharedPacksGoneBy"`
}

// AsideKey names a record of series that were set aside.
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

// Member is one row of the ring.
type Member struct {
	ID          string    `json:"id"`
	Address     string    `json:"address"`
	Zone        string    `json:"zone"`
	Roles       []string  `json:"roles"`
	State       string    `json:"state"`
	Unhealthy   bool      `json:"unhealthy"`
	Since       string    `json:"sinceHeartbeat"` // since the last heartbeat
	Registered  time.Time `json:"registered"`
	Tokens      int       `json:"tokens"`
	Share       float64   `json:"share"` // of the series, one of which has as many replicas as there are
	Incarnation string    `json:"incarnation,omitempty"`
}

// Loss is a window that a lost ingester had and nobody is known to have uploaded.
type Loss struct {
	Ingester string `json:"ingester"`
	Zone     string `json:"zone"`
	Day      int64  `json:"day"`
	Window   int    `json:"window"`
}

// Options of Commands. Ring is nil without a cluster.
type Options struct {
	Backend Backend
	Ring    Ring
	// Background runs what goes on after its request was answered, and ends it with
	// the process.
	Background func(func(context.Context))
	Logger     *slog.Logger
}

// Commands are the routes of the process that carries commands out.
type Commands struct{ o Options }

// New returns Commands.
func New(o Options) *Commands { return &Commands{o: o} }

// command is one of the operator's commands beside the rest of the admin API.
type command struct {
	method, path string
	params       []string
	cluster      bool // it is of a cluster only
	do           func(*Commands, http.ResponseWriter, *http.Request, url.Values) error
}

func commands() []command {
	return []command{
		{http.MethodPost, "/flush", []string{"wait", "instance"}, false, (*Commands).flush},
		{http.MethodPost, "/compact", []string{"wait", "expire", "instance"}, false, (*Commands).compact},
		{http.MethodPost, "/compact/accept-loss", []string{"day"}, false, (*Commands).acceptLoss},
		{http.MethodGet, "/erasures/{tenant}", nil, false, (*Commands).erasure},
		{http.MethodGet, "/aside", []string{"pageSize", "pageCursor"}, false, (*Commands).listAside},
		{http.MethodPost, "/aside/drop", []string{"day", "window", "ingester", "tenant"}, false, (*Commands).dropAside},
		{http.MethodGet, "/status", nil, false, (*Commands).showStatus},
		{http.MethodGet, "/ring", nil, true, (*Commands).showRing},
		{http.MethodPost, "/ring/forget", []string{"instance", "force"}, true, (*Commands).forget},
		{http.MethodPost, "/ring/leave", []string{"instance", "wait"}, true, (*Commands).leave},
	}
}

// Routes adds the commands that this process carries out.
func (c *Commands) Routes(r chi.Router) {
	for _, cmd := range commands() {
		r.Method(cmd.method, cmd.path, admin.Serve(func(w http.ResponseWriter, r *http.Request) error {
			if cmd.cluster && c.o.Ring == nil {
				return admin.Fail(http.StatusNotFound, "", "there is no ring: this Pallium is one process")
			}
			q, err := admin.Query(r, cmd.params...)
			if err != nil {
				return err
			}
			return cmd.do(c, w, r, q)
		}, c.o.Logger))
	}
}

// Routes adds all commands, which are passed on.
func (f *Forwarder) Routes(r chi.Router) {
	for _, cmd := range commands() {
		r.Method(cmd.method, cmd.path, f)
	}
}

// failed is the answer when something went wrong that the log tells more about.
func (c *Commands) failed(r *http.Request, err error, message string) error {
	if admin.IsProblem(err) {
		return err
	}
	c.o.Logger.Error("operator's command failed", "path", r.URL.Path, "request", admin.RequestID(r), "err", err)
	status := http.StatusInternalServerError
	if errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		status = http.StatusServiceUnavailable
	}
	return admin.Fail(status, "", "%s; see the log of the backend for request %s", message, admin.RequestID(r))
}

// begin carries out what may take long: with wait=true it answers what the task
// returns, else at once.
func (c *Commands) begin(w http.ResponseWriter, r *http.Request, q url.Values, what string, do Task) error {
	wait, err := admin.Flag(q, "wait")
	if err != nil {
		return err
	}
	if !wait {
		path := r.URL.Path
		c.o.Background(func(ctx context.Context) {
			if _, err := do(ctx); err != nil {
				c.o.Logger.Error("operator's command failed", "path", path, "err", err)
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
