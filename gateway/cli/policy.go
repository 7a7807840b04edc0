package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
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

func policyVerbs() []command.Command {
	return []command.Command{
		verb("policy create", "NAME", "create an access policy", 1, 1, policyCreate),
		verb("policy list", "", "list access policies", 0, 0, policyList),
		verb("policy show", "NAME", "show an access policy", 1, 1, policyShow),
		verb("policy set", "NAME", "change the tenants, scopes or display name of an access policy", 1, 1, policySet),
		destroys(verb("policy delete", "NAME", "delete an access policy", 1, 1, policyDelete)),
	}
}

func policyCreate(fs *flag.FlagSet) action {
	tenants := fs.String("tenants", "", "`tenants` for which keys of the policy are valid, separated by commas")
	scopes := fs.String("scopes", "", "`scopes` of the policy's keys, separated by commas, such as metrics:read,rules:read")
	display := fs.String("display-name", "", "display `name`")
	return func(ctx context.Context, s *session, args []string) error {
		realms := realmsOf(*tenants)
		if len(realms) == 0 {
			return command.Misused("-tenants is missing: name the tenants for which keys of the policy are valid")
		}
		if len(split(*scopes)) == 0 {
			return command.Misused("-scopes is missing: name the scopes of the policy's keys, such as metrics:read")
		}
		body := map[string]any{"name": args[0], "displayName": *display, "scopes": split(*scopes), "realms": realms}
		a, err := s.call(ctx, http.MethodPost, path("access-policies"), "", body, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() { s.say("created access policy %s\n", args[0]) })
	}
}

func realmsOf(tenants string) []realm {
	realms := []realm{}
	for _, t := range split(tenants) {
		realms = append(realms, realm{t})
	}
	return realms
}

func policySet(fs *flag.FlagSet) action {
	tenants := fs.String("tenants", "", "all `tenants` for which keys of the policy are valid, separated by commas")
	scopes := fs.String("scopes", "", "all `scopes` of the policy's keys, separated by commas")
	display := fs.String("display-name", "", "display `name`")
	return func(ctx context.Context, s *session, args []string) error {
		if !given(fs, "tenants") && !given(fs, "scopes") && !given(fs, "display-name") {
			return command.Misused("nothing to change: set -tenants, -scopes or -display-name")
		}
		p := path("access-policies", args[0])
		var policy policyAnswer
		have, err := s.call(ctx, http.MethodGet, p, "", nil, &policy)
		if err != nil {
			return err
		}
		before := policy
		if given(fs, "tenants") {
			policy.Realms = realmsOf(*tenants)
		}
		if given(fs, "scopes") {
			policy.Scopes = split(*scopes)
		}
		if given(fs, "display-name") {
			policy.DisplayName = *display
		}
		body := map[string]any{"displayName": policy.DisplayName, "scopes": policy.Scopes, "realms": policy.Realms}
		a, err := s.call(ctx, http.MethodPut, p, have.etag, body, &policy)
		if err != nil {
			return err
		}
		return s.print(a, policy.ID, func() {
			s.changes("access policy "+policy.ID, []change{
				{"tenants", before.tenants(), policy.tenants()},
				{"scopes", strings.Join(before.Scopes, ","), strings.Join(policy.Scopes, ",")},
				{"display name", before.DisplayName, policy.DisplayName},
			})
		})
	}
}

func policyList(fs *flag.FlagSet) action {
	tenant := fs.String("tenant", "", "only policies that include this `tenant`")
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
	cascade := fs.Bool("cascade", false, "also delete its tokens; their keys become invalid immediately")
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		p := path("access-policies", args[0])
		have, err := s.call(ctx, http.MethodGet, p, "", nil, nil)
		if err != nil {
			return err
		}
		query := ""
		if *cascade {
			query = "?cascade=true"
			if err := s.confirmKeys(ctx, *yes, args[0]); err != nil {
				return err
			}
		}
		return s.removeAs(ctx, p, query, args[0], have.etag)
	}
}

// confirmKeys asks for a confirmation that the keys of a policy are deleted. It returns an
// error if the set of keys changes while the user types.
func (s *session) confirmKeys(ctx context.Context, yes bool, policy string) error {
	if yes {
		return nil
	}
	keys, err := s.keysOf(ctx, policy)
	if err != nil || len(keys) == 0 {
		return err
	}
	warning := fmt.Sprintf("This deletes access policy %s and its %s%s, which become invalid immediately.",
		policy, command.Counted(len(keys), "API key"), named(keys))
	if err := s.Confirm(ctx, false, warning, policy); err != nil {
		return err
	}
	now, err := s.keysOf(ctx, policy)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(keys, now, func(a, b tokenAnswer) bool { return a.ID == b.ID }) {
		return fmt.Errorf("%w: the keys of access policy %s changed in the meantime; repeat the command", command.ErrUnchanged, policy)
	}
	return nil
}

func (s *session) keysOf(ctx context.Context, policy string) ([]tokenAnswer, error) {
	keys, _, err := items[tokenAnswer](ctx, s, path("tokens"), url.Values{"accessPolicyId": {policy}})
	return keys, err
}
