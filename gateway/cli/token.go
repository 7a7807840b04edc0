package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

type tokenAnswer struct {
	ID                 string   `json:"id"`
	Name               string   `json:"name"`
	AccessPolicyID     string   `json:"accessPolicyId"`
	Tenants            []string `json:"tenants"`
	Scopes             []string `json:"scopes"`
	Status             string   `json:"status"`
	ExpiresAt          string   `json:"expiresAt"`
	LastUsedAt         string   `json:"lastUsedAt"`
	PreviousValidUntil string   `json:"previousValidUntil"`
	Token              string   `json:"token"`
	Prometheus         string   `json:"prometheus"`
	Grafana            string   `json:"grafana"`

	MaxConcurrentRequests int `json:"maxConcurrentRequests"`
}

// concurrency returns the limit of the token's requests in progress as text.
func (t *tokenAnswer) concurrency() string {
	if t.MaxConcurrentRequests == 0 {
		return "unlimited"
	}
	return strconv.Itoa(t.MaxConcurrentRequests)
}

func tokenVerbs() []command.Command {
	return []command.Command{
		verb("token issue", "", "issue an API key, for a tenant and scopes or for an access policy", 0, 0, tokenIssue),
		verb("token list", "", "list API keys", 0, 0, tokenList),
		verb("token show", "ID", "show a token; its key cannot be shown again", 1, 1, tokenShow),
		verb("token set", "ID", "change the limit of a token", 1, 1, tokenSet),
		verb("token rotate", "ID", "issue a new key for a token; the old one stays valid for -grace", 1, 1, tokenRotate),
		destroys(verb("token revoke", "ID", "revoke a token and all its keys immediately; the token stays in the list", 1, 1, tokenRevoke)),
		destroys(verb("token delete", "ID", "revoke a token and all its keys immediately, and remove it from the list", 1, 1, tokenDelete)),
	}
}

func tokenIssue(fs *flag.FlagSet) action {
	tenant := fs.String("tenant", "", "`tenant` for which the key is valid")
	scopes := fs.String("scopes", "", "`scopes` of the key, separated by commas, such as metrics:write,metrics:read")
	policy := fs.String("policy", "", "access `policy` of the key, instead of -tenant and -scopes")
	name := fs.String("name", "", "what the key is for")
	expires := fs.String("expires", "", "`time` when the key expires: a duration such as 90d, a time such as 2030-12-31T00:00:00Z, or "+
		"never (default one year)")
	concurrent := concurrencyFlag(fs)
	create := fs.Bool("create-tenant", false, "create the tenant if it does not exist")
	return func(ctx context.Context, s *session, _ []string) error {
		body, err := issueBody(*tenant, *scopes, *policy, *name, *expires)
		if err != nil {
			return err
		}
		if *concurrent != 0 {
			body["maxConcurrentRequests"] = *concurrent
		}
		if err := s.showsKeys(); err != nil {
			return err
		}
		var t tokenAnswer
		a, err := s.call(ctx, http.MethodPost, path("tokens"), "", body, &t)
		if *create && lacksTenant(err) { // everything else in the request is valid
			_, err = s.call(ctx, http.MethodPost, path("tenants"), "", map[string]any{"name": *tenant}, nil)
			if err != nil && !isStatus(err, http.StatusConflict) {
				return err
			}
			a, err = s.call(ctx, http.MethodPost, path("tokens"), "", body, &t)
		}
		if err != nil {
			return err
		}
		return s.printKey(a, "issued", t)
	}
}

const concurrency = "max-concurrent-requests"

func concurrencyFlag(fs *flag.FlagSet) *int {
	return fs.Int(concurrency, 0, "`number` of requests with the token's keys that may be in progress at one gateway; 0 for no limit")
}

func tokenSet(fs *flag.FlagSet) action {
	concurrent := concurrencyFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if !given(fs, concurrency) {
			return command.Misused("nothing to change: set -%s", concurrency)
		}
		var before, t tokenAnswer
		have, err := s.call(ctx, http.MethodGet, path("tokens", args[0]), "", nil, &before)
		if err != nil {
			return err
		}
		a, err := s.call(ctx, http.MethodPut, path("tokens", args[0]), have.etag, map[string]any{"maxConcurrentRequests": *concurrent}, &t)
		if err != nil {
			return err
		}
		return s.print(a, t.ID, func() {
			s.changes("token "+t.ID, []change{{"max concurrent requests", before.concurrency(), t.concurrency()}})
		})
	}
}

// lacksTenant reports whether the server did not issue a key because of its tenant. The server
// checks whether the tenant exists after everything else in the request.
func lacksTenant(err error) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == http.StatusBadRequest && e.field() == "tenant"
}

// showsKeys returns an error if standard output discards everything: a new key would be
// lost. If standard output is closed, the Go runtime opens the null device instead.
func (s *session) showsKeys() error {
	out, ok := s.Unwrapped().(*os.File)
	if !ok {
		return nil
	}
	now, err := out.Stat()
	if err != nil {
		return fmt.Errorf("%w, since the new key would be lost: standard output: %w", command.ErrUnchanged, err)
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(now, null) {
		return fmt.Errorf("%w, since the new key would be lost: standard output is closed or %s", command.ErrUnchanged, os.DevNull)
	}
	return nil
}

// printKey prints a new key. If standard output fails, it prints the key to standard error,
// because the key is stored nowhere.
func (s *session) printKey(a answer, what string, t tokenAnswer) error {
	err := s.print(a, t.Token, func() { s.sayKey(what, t) })
	if s.Lost() != nil {
		fmt.Fprintf(s.Err, "The output could not be written. The new key of token %s, which is never shown again, is:\n%s\n", t.ID, t.Token)
		return s.Lost()
	}
	return err
}

func issueBody(tenant, scopes, policy, name, expires string) (map[string]any, error) {
	if name == "" {
		return nil, command.Misused("-name is missing: say what the key is for")
	}
	body := map[string]any{"name": name}
	switch {
	case policy != "" && (tenant != "" || scopes != ""):
		return nil, command.Misused("-policy cannot be combined with -tenant and -scopes: use one or the other")
	case policy != "":
		body["accessPolicyId"] = policy
	case tenant == "":
		return nil, command.Misused("-tenant is missing: set -tenant and -scopes, or -policy")
	case len(split(scopes)) == 0:
		return nil, command.Misused("-scopes is missing: name the scopes of the key, such as metrics:write,metrics:read")
	default:
		body["tenant"], body["scopes"] = tenant, split(scopes)
	}
	if expires == "" {
		return body, nil
	}
	body["expiresAt"] = expires
	if d, err := model.ParseDuration(expires); err == nil {
		body["expiresAt"] = time.Now().Add(time.Duration(d)).UTC().Format(time.RFC3339)
	} else if _, err := time.Parse(time.RFC3339, expires); err != nil && expires != "never" {
		return nil, command.Misused("-expires %q must be a duration such as 90d, a time such as 2030-12-31T00:00:00Z, or never", expires)
	}
	return body, nil
}

// sayKey prints a new key and the configuration snippets for it.
func (s *session) sayKey(what string, t tokenAnswer) {
	s.say("%s token %s for %s (%s), expires %s\n\nThe key, which is never shown again:\n\n%s\n",
		what, t.ID, strings.Join(t.Tenants, ", "), strings.Join(t.Scopes, ", "), t.ExpiresAt, t.Token)
	if t.PreviousValidUntil != "" {
		s.say("\nThe previous key is valid until %s.\n", t.PreviousValidUntil)
	}
	if t.Prometheus != "" {
		s.say("\n# For prometheus.yml:\n%s", t.Prometheus)
	}
	if t.Grafana != "" {
		s.say("\n# For Grafana, in provisioning/datasources/pallium.yaml:\n%s", t.Grafana)
	}
}

func tokenList(fs *flag.FlagSet) action {
	tenant := fs.String("tenant", "", "only tokens that are valid for this `tenant`")
	policy := fs.String("policy", "", "only tokens of this access `policy`")
	name := fs.String("name", "", "only tokens with this `name`")
	return func(ctx context.Context, s *session, _ []string) error {
		q := url.Values{}
		if *tenant != "" {
			q.Set("tenant", *tenant)
		}
		if *policy != "" {
			q.Set("accessPolicyId", *policy)
		}
		head := []string{"ID", "NAME", "STATUS", "TENANTS", "SCOPES", "EXPIRES", "LAST USED"}
		all, raw, err := items[tokenAnswer](ctx, s, path("tokens"), q)
		if err != nil {
			return err
		}
		for i := len(all) - 1; i >= 0; i-- {
			if given(fs, "name") && all[i].Name != *name {
				all, raw = slices.Delete(all, i, i+1), slices.Delete(raw, i, i+1)
			}
		}
		return printList(s, all, raw, func(t tokenAnswer) string { return t.ID }, head, func(t tokenAnswer) []string {
			return []string{t.ID, t.Name, t.Status, strings.Join(t.Tenants, ","), strings.Join(t.Scopes, ","), day(t.ExpiresAt), t.LastUsedAt}
		})
	}
}

func tokenShow(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var t tokenAnswer
		a, err := s.call(ctx, http.MethodGet, path("tokens", args[0]), "", nil, &t)
		if err != nil {
			return err
		}
		return s.print(a, t.ID, func() {
			s.fields("id", t.ID, "name", t.Name, "status", t.Status, "policy", t.AccessPolicyID, "tenants", strings.Join(t.Tenants, ", "),
				"scopes", strings.Join(t.Scopes, ", "), "expires", t.ExpiresAt, "last used", t.LastUsedAt, "old key valid until", t.PreviousValidUntil,
				"max concurrent requests", t.concurrency())
		})
	}
}

func tokenDelete(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		etag, err := s.askForToken(ctx, *yes, "Delete", args[0])
		if err != nil {
			return err
		}
		return s.removeAs(ctx, path("tokens", args[0]), "", args[0], etag)
	}
}

// askForToken asks for a confirmation to revoke or delete a token, and returns its ETag.
func (s *session) askForToken(ctx context.Context, yes bool, verb, id string) (etag string, err error) {
	var t tokenAnswer
	have, err := s.call(ctx, http.MethodGet, path("tokens", id), "", nil, &t)
	if err != nil {
		return "", err
	}
	return have.etag, s.Ask(ctx, yes, fmt.Sprintf("%s token %s (%s, %s, for %s)? Its keys become invalid immediately and permanently.",
		verb, id, t.Name, t.Status, orNone(strings.Join(t.Tenants, ", "))))
}

func tokenRotate(fs *flag.FlagSet) action {
	grace := fs.String("grace", "1d", "`duration` for which the old key stays valid, at most 30d; with 0 it becomes invalid immediately")
	return func(ctx context.Context, s *session, args []string) error {
		d, err := model.ParseDuration(*grace)
		if err != nil {
			return command.Misused("-grace %q must be a duration such as 12h or 1d", *grace)
		}
		if time.Duration(d) > control.MaxGrace {
			return command.Misused("-grace %s is too long: the maximum is 30d", *grace)
		}
		if err := s.showsKeys(); err != nil {
			return err
		}
		var t tokenAnswer
		body := map[string]any{"graceSeconds": int64(time.Duration(d).Seconds())}
		a, err := s.call(ctx, http.MethodPost, path("tokens", args[0], "rotate"), "", body, &t)
		if err != nil {
			return err
		}
		return s.printKey(a, "rotated", t)
	}
}

func tokenRevoke(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if _, err := s.askForToken(ctx, *yes, "Revoke", args[0]); err != nil {
			return err
		}
		a, err := s.call(ctx, http.MethodPost, path("tokens", args[0], "revoke"), "", nil, nil)
		if err != nil {
			return err
		}
		return s.print(a, args[0], func() { s.say("revoked token %s\n", args[0]) })
	}
}
