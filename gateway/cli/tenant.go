package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

type tenantAnswer struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Plan        string         `json:"plan"`
	Limits      limits.Partial `json:"limits"`
	CreatedAt   string         `json:"createdAt"`
	DeletedAt   string         `json:"deletedAt"`
}

func tenantVerbs() []command.Command {
	return []command.Command{
		verb("tenant create", "NAME", "create a tenant", 1, 1, tenantCreate),
		verb("tenant list", "", "list tenants", 0, 0, tenantList),
		verb("tenant show", "NAME", "show a tenant", 1, 1, tenantShow),
		verb("tenant set", "NAME", "change a tenant's display name or plan", 1, 1, tenantSet),
		destroys(verb("tenant delete", "NAME", "delete a tenant and all its data permanently", 1, 1, tenantDelete)),
	}
}

func tenantCreate(fs *flag.FlagSet) action {
	display := fs.String("display-name", "", "display `name`")
	plan := fs.String("plan", "", "`plan` with the tenant's limits")
	overrides := limitFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		body := map[string]any{"name": args[0], "displayName": *display, "plan": *plan, "limits": *overrides}
		a, err := s.call(ctx, http.MethodPost, path("tenants"), "", body, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() {
			s.say("created tenant %s\n\nIssue an API key for it:\n  pallium token issue -tenant %s -scopes metrics:write,metrics:read -name NAME\n",
				args[0], quoted(args[0]))
		})
	}
}

func tenantList(fs *flag.FlagSet) action {
	deleted := fs.Bool("deleted", false, "also list deleted tenants")
	return func(ctx context.Context, s *session, _ []string) error {
		q := url.Values{}
		if *deleted {
			q.Set("includeDeleted", "true")
		}
		head := []string{"NAME", "DISPLAY NAME", "PLAN", "OVERRIDES", "CREATED", "DELETED"}
		return list(ctx, s, path("tenants"), q, func(t tenantAnswer) string { return t.Name }, head, func(t tenantAnswer) []string {
			return []string{t.Name, t.DisplayName, t.Plan, overridesText(t.Limits), day(t.CreatedAt), day(t.DeletedAt)}
		})
	}
}

func tenantShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var t tenantAnswer
		a, err := s.call(ctx, http.MethodGet, path("tenants", args[0]), "", nil, &t)
		if err != nil {
			return err
		}
		return s.print(a, t.Name, func() {
			s.fields("name", t.Name, "display name", t.DisplayName, "plan", t.Plan, "overrides", overridesText(t.Limits), "created", t.CreatedAt)
		})
	}
}

func tenantSet(fs *flag.FlagSet) action {
	display := fs.String("display-name", "", "display `name`")
	plan := fs.String("plan", "", "`plan` with the tenant's limits; \"\" for none")
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if !given(fs, "display-name") && !given(fs, "plan") {
			return command.Misused("nothing to change: set -display-name or -plan; 'pallium limits set' changes limits")
		}
		p := path("tenants", args[0])
		var t tenantAnswer
		have, err := s.call(ctx, http.MethodGet, p, "", nil, &t)
		if err != nil {
			return err
		}
		before := t
		if given(fs, "display-name") {
			t.DisplayName = *display
		}
		if given(fs, "plan") {
			t.Plan = *plan
		}
		if t.Plan != before.Plan && !*yes {
			if err := s.confirmMove(ctx, t); err != nil {
				return err
			}
		}
		a, err := s.call(ctx, http.MethodPut, p, have.etag, map[string]any{"displayName": t.DisplayName, "plan": t.Plan, "limits": t.Limits}, &t)
		if err != nil {
			return err
		}
		return s.print(a, t.Name, func() {
			s.changes("tenant "+t.Name, []change{
				{"display name", before.DisplayName, t.DisplayName},
				{"plan", before.Plan, t.Plan},
			})
		})
	}
}

// confirmMove asks for a confirmation if the new plan of a tenant, t.Plan, lowers its retention.
func (s *session) confirmMove(ctx context.Context, t tenantAnswer) error {
	var l limitsAnswer
	if _, err := s.call(ctx, http.MethodGet, path("tenants", t.Name, "limits"), "", nil, &l); err != nil {
		return err
	}
	var plan planAnswer
	if t.Plan != "" {
		if _, err := s.call(ctx, http.MethodGet, path("plans", t.Plan), "", nil, &plan); err != nil {
			return err
		}
	}
	return s.confirmRetention(ctx, false, "tenant "+t.Name, l.value(retention), l.retentionOf(t.Limits, plan.Limits), t.Name)
}

// given reports whether a flag is set on the command line.
func given(fs *flag.FlagSet, name string) bool {
	found := false
	fs.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func tenantDelete(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if args[0] == string(tenant.Self) {
			return fmt.Errorf("tenant %s holds Pallium's own metrics and cannot be deleted", args[0])
		}
		p := path("tenants", args[0])
		have, err := s.call(ctx, http.MethodGet, p, "", nil, nil)
		if err != nil {
			return err
		}
		if !*yes {
			warning, err := s.whatIsLost(ctx, args[0])
			if err != nil {
				return err
			}
			if err := s.Confirm(ctx, false, warning, args[0]); err != nil {
				return err
			}
		}
		return s.removeAs(ctx, p, "", args[0], have.etag)
	}
}

// whatIsLost describes what the deletion of a tenant destroys.
func (s *session) whatIsLost(ctx context.Context, name string) (string, error) {
	q := url.Values{"tenant": {name}}
	keys, _, err := items[tokenAnswer](ctx, s, path("tokens"), q)
	if err != nil {
		return "", err
	}
	keys = slices.DeleteFunc(keys, func(t tokenAnswer) bool { return t.Status != control.TokenActive })
	policies, _, err := items[policyAnswer](ctx, s, path("access-policies"), url.Values{"tenant": {name}})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "This deletes tenant %s permanently:\n", name)
	fmt.Fprintf(&b, "  - all its samples, in memory and in the long-term store\n")
	fmt.Fprintf(&b, "  - access to the tenant with %s%s and %s\n",
		command.Counted(len(keys), "active API key"), named(keys), command.Counted(len(policies), "access policy"))
	fmt.Fprintf(&b, "  - its name, which can never be used again\n")
	return b.String(), nil
}

// named returns a list of the first token names in parentheses.
func named(keys []tokenAnswer) string {
	var names []string
	for _, k := range keys {
		names = append(names, k.Name)
	}
	return some(names)
}

// some returns the first names of a list in parentheses, after a space.
func some(names []string) string {
	if len(names) == 0 {
		return ""
	}
	const most = 5
	if len(names) > most {
		names = append(slices.Clone(names[:most]), "...")
	}
	return " (" + strings.Join(names, ", ") + ")"
}

func overridesText(p limits.Partial) string {
	var out []string
	for _, k := range p.Keys() {
		v, _ := p.Get(k)
		out = append(out, k+"="+v)
	}
	return strings.Join(out, " ")
}

// limitFlag declares the flag that sets limits of a new tenant or plan.
func limitFlag(fs *flag.FlagSet) *limits.Partial {
	var l limits.Partial
	seen := map[string]bool{}
	fs.Func("limit", "set a limit, as `key=value`; may be repeated", func(s string) error { return assign(&l, seen, s) })
	return &l
}

// assignAll sets limits from the arguments of a command.
func assignAll(l limits.Partial, args []string) (limits.Partial, error) {
	seen := map[string]bool{}
	for _, kv := range args {
		if err := assign(&l, seen, kv); err != nil {
			return l, err
		}
	}
	return l, nil
}

// assign sets a limit from key=value; key= removes it. A key in `seen` is an error.
func assign(p *limits.Partial, seen map[string]bool, s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return command.Misused("%q must have the form key=value, or key= to remove the limit", s)
	}
	err := p.Unset(key)
	if value != "" {
		err = p.Set(key, value)
	}
	switch {
	case err != nil:
		return command.Misused("%s", err)
	case seen[key]:
		return command.Misused("limit %s appears twice: remove one of the two", key)
	}
	seen[key] = true
	return nil
}
