package cli

import (
	"context"
	"flag"
	"net/http"
	"net/url"
	"strings"
)

type policyAnswer struct {
	ID          string   `json:"id"`
	DisplayName string   `json:"displayName"`
	Scopes      []string `json:"scopes"`
	Realms      []realm  `json:"realms"`
	CreatedAt   string   `json:"createdAt"`
}

type realm struct {
	Tenant string `json:"tenant"`
}

func (p policyAnswer) tenants() string {
	var out []string
	for _, r := range p.Realms {
		out = append(out, r.Tenant)
	}
	return strings.Join(out, ",")
}

func policyVerbs() []verb {
	return []verb{
		{"policy create", "NAME", "create an access policy", 1, policyCreate},
		{"policy list", "", "list access policies", 0, policyList},
		{"policy show", "NAME", "show an access policy", 1, policyShow},
		{"policy delete", "NAME", "delete an access policy that has no tokens", 1, policyDelete},
	}
}

func policyCreate(fs *flag.FlagSet) action {
	tenants := fs.String("tenants", "", "`tenants` that its keys may act for, with commas between")
	scopes := fs.String("scopes", "", "what its keys may do: `scopes` with commas between, such as metrics:read,rules:read")
	display := fs.String("display-name", "", "a `name` for people")
	return func(ctx context.Context, s *session, args []string) error {
		realms := []realm{}
		for _, t := range split(*tenants) {
			realms = append(realms, realm{t})
		}
		if len(realms) == 0 {
			return misused("-tenants is missing")
		}
		if len(split(*scopes)) == 0 {
			return misused("-scopes is missing")
		}
		body := map[string]any{"name": args[0], "displayName": *display, "scopes": split(*scopes), "realms": realms}
		a, err := s.call(ctx, http.MethodPost, path("access-policies"), "", body, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() { s.say("created access policy %s\n", args[0]) })
	}
}

func policyList(fs *flag.FlagSet) action {
	tenant := fs.String("tenant", "", "only policies that name this `tenant`")
	return func(ctx context.Context, s *session, _ []string) error {
		q := url.Values{}
		if *tenant != "" {
			q.Set("tenant", *tenant)
		}
		head := []string{"NAME", "DISPLAY NAME", "TENANTS", "SCOPES", "CREATED"}
		return list(ctx, s, path("access-policies"), q, func(p policyAnswer) string { return p.ID }, head, func(p policyAnswer) []string {
			return []string{p.ID, p.DisplayName, p.tenants(), strings.Join(p.Scopes, ","), day(p.CreatedAt)}
		})
	}
}

func policyShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var p policyAnswer
		a, err := s.call(ctx, http.MethodGet, path("access-policies", args[0]), "", nil, &p)
		if err != nil {
			return err
		}
		return s.print(a, p.ID, func() {
			s.fields("name", p.ID, "display name", p.DisplayName, "tenants", p.tenants(), "scopes", strings.Join(p.Scopes, ","), "created",
				p.CreatedAt)
		})
	}
}

func policyDelete(fs *flag.FlagSet) action {
	cascade := fs.Bool("cascade", false, "delete its tokens too")
	return func(ctx context.Context, s *session, args []string) error {
		query := ""
		if *cascade {
			query = "?cascade=true"
		}
		return s.remove(ctx, path("access-policies", args[0]), query, args[0])
	}
}
