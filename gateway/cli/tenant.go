package cli

import (
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/gateway/cli/command"

	"context"
	"flag"
	"net/http"
	"net/url"
	"strings"

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
	var overrides limits.Partial
	fs.Func("limit", "set a limit, as `key=value`; may be repeated", func(s string) error { return assign(&overrides, s) })
	return func(ctx context.Context, s *session, args []string) error {
		body := map[string]any{"name": args[0], "displayName": *display, "plan": *plan, "limits": overrides}
		a, err := s.call(ctx, http.MethodPost, path("tenants"), "", body, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() {
			s.say("created tenant %s\n\nIssue an API key for it:\n  pallium token issue -tenant %s -scopes metrics:write,metrics:read -name NAME\n",
				args[0], args[0])
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
		a, err := s.call(ctx, http.MethodPut, p, have.etag, map[string]any{"displayName": t.DisplayName, "plan": t.Plan, "limits": t.Limits}, &t)
		if err != nil {
			return err
		}
		return s.print(a, t.Name, func() {
			s.changed("display name", before.DisplayName, t.DisplayName)
			s.changed("plan", before.Plan, t.Plan)
		})
	}
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
			if err := s.confirm(false, warning, args[0]); err != nil {
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
	keys = slices.DeleteFunc(keys, func(t tokenAnswer) bool { return t.Status != "active" })
	policies, _, err := items[policyAnswer](ctx, s, path("access-policies"), url.Values{"tenant": {name}})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "This deletes tenant %s permanently:\n", name)
	fmt.Fprintf(&b, "  - all its samples, in memory and in the long-term store\n")
	fmt.Fprintf(&b, "  - the access to it of %d active API keys%s and %d access policies\n", len(keys), named(keys), len(policies))
	fmt.Fprintf(&b, "  - its name, which can never be used again\n")
	return b.String(), nil
}

// named returns a list of the first token names in parentheses.
func named(keys []tokenAnswer) string {
	if len(keys) == 0 {
		return ""
	}
	const most = 5
	var names []string
	for _, k := range keys[:min(len(keys), most)] {
		names = append(names, k.Name)
	}
	if len(keys) > most {
		names = append(names, "...")
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

// assign sets a limit from key=value; key= removes it.
func assign(p *limits.Partial, s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return command.Misused("%q must have the form key=value, or key= to remove the limit", s)
	}
	err := p.Unset(key)
	if value != "" {
		err = p.Set(key, value)
	}
	if err != nil {
		return command.Misused("%s", err)
	}
	return nil
}
