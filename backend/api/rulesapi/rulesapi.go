// Package rulesapi is the HTTP API with which tenants configure their rules: that of Mimir, which is
// also Cortex's except for the paths. docs/ruler.md describes it.
package rulesapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/rulestate"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// HeaderOverride is the header of a change of a protected namespace. It contains the namespace, or several
// separated by commas.
const HeaderOverride = "X-Mimir-Ruler-Override-Namespace-Protection"

// MaxTenantBytes is the maximum size of all groups of a tenant as YAML. They are in one row, and a
// listing holds all of them in memory.
const MaxTenantBytes = 32 << 20

// Store reads and writes the rules of tenants. index.Rules implements it.
type Store interface {
	List(ctx context.Context, t tenant.ID) (index.RuleSet, error)
	Get(ctx context.Context, t tenant.ID, namespace, name string) (g index.RuleGroup, ok bool, err error)
	Put(ctx context.Context, t tenant.ID, g index.RuleGroup, check func(index.RuleSet) error) error
	Delete(ctx context.Context, t tenant.ID, namespace, name string) (bool, error)
	DeleteNamespace(ctx context.Context, t tenant.ID, namespace string) (bool, error)
}

// Backfills reads and writes the backfills of tenants. index.Rules implements it.
type Backfills interface {
	StartBackfill(ctx context.Context, b *index.Backfill) error
	Backfill(ctx context.Context, t tenant.ID, namespace, group string) (b index.Backfill, ok bool, err error)
	DeleteBackfill(ctx context.Context, t tenant.ID, namespace, group string) (bool, error)
}

// Options configures the API.
type Options struct {
	Store     Store
	Backfills Backfills
	// BackfillStarted is called after a backfill was started; may be nil.
	BackfillStarted func()
	// States returns the groups of a tenant that rulers report. The groups of a ruler that does not respond are missing.
	States  func(context.Context, tenant.ID) ([]rulestate.Group, error)
	Now     func() time.Time
	Parsers switches.Parsers
	Limits  func(tenant.ID) limits.Limits
	Memory  *memory.Account // may be nil: the memory of requests is not accounted for
	Changed func(tenant.ID) // called after each change; may be nil
	Logger  *slog.Logger    // may be nil: nothing is logged
}

type api struct {
	Options
	exchanges exchange.Options
}

// New returns the handlers of the API by the names of their routes.
func New(o Options) map[string]http.HandlerFunc {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(tenant.ID) {}
	}
	if o.BackfillStarted == nil {
		o.BackfillStarted = func() {}
	}
	a := &api{o, exchange.Options{Limits: o.Limits, Memory: o.Memory, Logger: o.Logger, What: "the rules", Write: writeFailure}}
	handlers := map[string]http.HandlerFunc{}
	table := routes.Table()
	for name, serve := range map[string]func(*request) error{
		"rule_namespaces":       a.list,
		"rule_namespace":        a.listNamespace,
		"rule_group":            a.get,
		"set_rule_group":        a.set,
		"delete_rule_namespace": a.deleteNamespace,
		"delete_rule_group":     a.deleteGroup,
		"start_rule_backfill":   a.startBackfill,
		"rule_backfill":         a.getBackfill,
		"delete_rule_backfill":  a.deleteBackfill,
		"rules":                 a.rules,
		"alerts":                a.alerts,
	} {
		i := slices.IndexFunc(table, func(r routes.Route) bool { return r.Name == name })
		handlers[name] = a.handler(table[i].Upstream(), serve)
	}
	return handlers
}

// request is an exchange with the parts of its path.
type request struct {
	*exchange.Exchange
	namespace, group string
}

// handler returns the handler of a route with the path pattern.
func (a *api) handler(pattern string, serve func(*request) error) http.HandlerFunc {
	return a.exchanges.Handler(func(e *exchange.Exchange) error {
		x := &request{Exchange: e}
		if err := x.parse(pattern); err != nil {
			return err
		}
		return serve(x)
	})
}

// parse sets the namespace and the group from the path. Each is decoded exactly once.
func (x *request) parse(pattern string) error {
	values, ok := routes.Match(pattern, x.R.URL.EscapedPath())
	if !ok {
		return exchange.NotFound("there is nothing at this path")
	}
	for i, into := range []*string{&x.namespace, &x.group}[:len(values)] {
		name, err := url.PathUnescape(values[i])
		if err == nil {
			err = rules.CheckName([]string{"namespace", "group"}[i], name)
		}
		if err != nil {
			return exchange.BadRequest(err.Error())
		}
		*into = name
	}
	return nil
}

// override reports whether the request may change a protected namespace.
func (x *request) override() bool {
	for _, list := range x.R.Header.Values(HeaderOverride) {
		if list == x.namespace {
			return true
		}
		for one := range strings.SplitSeq(list, ",") {
			if strings.TrimSpace(one) == x.namespace {
				return true
			}
		}
	}
	return false
}

// checkProtection returns an error if the namespace is protected and the request does not override that.
func (x *request) checkProtection() error {
	if !slices.Contains(limits.Lines(x.Limits.ProtectedRuleNamespaces), x.namespace) || x.override() {
		return nil
	}
	return &exchange.Error{Code: http.StatusForbidden, Kind: "forbidden", Text: fmt.Sprintf(
		"namespace %q is protected (limit protected_rule_namespaces): send the header %s with the namespace to change it",
		x.namespace, HeaderOverride)}
}
