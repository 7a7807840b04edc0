package cli

import (
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

func tenantVerbs() []verb {
	return []verb{
		{"tenant create", "NAME", "create a tenant", 1, tenantCreate},
		{"tenant list", "", "list tenants", 0, tenantList},
		{"tenant show", "NAME", "show a tenant", 1, tenantShow},
		{"tenant delete", "NAME", "delete a tenant for good; its name is never used again", 1, tenantDelete},
	}
}

func tenantCreate(fs *flag.FlagSet) action {
	display := fs.String("display-name", "", "a `name` for people")
	plan := fs.String("plan", "", "`plan` that the tenant's limits come from")
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
	deleted := fs.Bool("deleted", false, "list deleted tenants too")
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

func tenantDelete(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		return s.remove(ctx, path("tenants", args[0]), "", args[0])
	}
}

func overridesText(p limits.Partial) string {
	var out []string
	for _, k := range p.Keys() {
		v, _ := p.Get(k)
		out = append(out, k+"="+v)
	}
	return strings.Join(out, " ")
}

// assign sets a limit from key=value; key= alone removes it.
func assign(p *limits.Partial, s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return misused("%q must read key=value, or key= to remove the limit", s)
	}
	err := p.Unset(key)
	if value != "" {
		err = p.Set(key, value)
	}
	if err != nil {
		return misused("%s", err)
	}
	return nil
}
