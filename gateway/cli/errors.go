package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// apiError is an error response of the server.
type apiError struct {
	Status    int    `json:"-"`
	Code      string `json:"code"`
	Message   string `json:"message"`
	RequestID string `json:"requestId"`
	Details   []struct {
		Field  string `json:"field"`
		Reason string `json:"reason"`
	} `json:"details"`
}

// Error returns what is wrong and what to do, in terms of the command line. The server's Message is
// used only if the response has no detail, because its advice is in terms of the API.
func (e *apiError) Error() string {
	text, help := e.reason(), e.advice()
	if help != "" {
		text += "; " + help
	}
	if e.RequestID == "" || strings.Contains(text, e.RequestID) {
		return text
	}
	return fmt.Sprintf("%s (request %s)", text, e.RequestID)
}

// field names the part of the request that is wrong, as the API names it.
func (e *apiError) field() string {
	if len(e.Details) == 0 {
		return ""
	}
	return e.Details[0].Field
}

// reason returns what is wrong. If the server's text begins with the name of an API field, reason
// replaces it by the flag.
func (e *apiError) reason() string {
	field := e.field()
	if field == "" || e.Details[0].Reason == "" {
		return e.Message
	}
	reason := e.Details[0].Reason
	if e.Status == http.StatusPreconditionFailed {
		return "the object was changed by another request in the meantime: repeat the command"
	}
	if rest, ok := strings.CutPrefix(reason, "tenant ID "); ok {
		return "tenant name " + rest
	}
	if rest, ok := strings.CutPrefix(reason, field+" "); ok && flagOf(field) != "" {
		return flagOf(field) + " " + rest
	}
	return reason
}

// flagOf returns the flag for a field of the API, or "".
func flagOf(field string) string {
	switch field {
	case "displayName":
		return "-display-name"
	case "expiresAt":
		return "-expires"
	case "graceSeconds":
		return "-grace"
	case "accessPolicyId":
		return "-policy"
	case "realms":
		return "-tenants"
	case "maxConcurrentRequests":
		return "-" + concurrency
	case "scopes", "plan", "instance", "day", "window", "ingester":
		return "-" + field
	}
	return ""
}

// advice returns what to do, in terms of the command line, for fields about which the server gives
// advice in terms of the API; otherwise "".
func (e *apiError) advice() string {
	switch e.field() {
	case "cascade":
		return "-cascade deletes them with the policy"
	case "force":
		return "-force removes it anyway"
	case "id":
		if e.Message != e.Details[0].Reason { // otherwise the ID is that of a token
			return "'pallium query list' shows the queries in progress"
		}
	case "aside":
		return "'pallium aside list' shows all series that are set aside"
	case "tenant":
		switch {
		case e.Message == e.Details[0].Reason:
		case e.Status == http.StatusNotFound:
			return "'pallium tenant list' shows all tenants"
		default:
			return "-create-tenant creates it"
		}
	case "realms":
		if e.Message != e.Details[0].Reason {
			return "'pallium tenant create' creates it"
		}
	}
	return ""
}

func isStatus(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// failed returns the error for the user after a request failed with err. `ctx` is the context
// of the command; `from` names the source of the admin token.
func (s *session) failed(ctx context.Context, req *http.Request, from string, err error) error {
	var e *apiError
	var network *net.OpError
	unsent := errors.As(err, &network) && network.Op == "dial"
	maybe := req.Method != http.MethodGet && !unsent
	look := "'pallium " + lookup(req.URL.Path) + "' shows whether it did"
	switch {
	case errors.As(err, &e):
		return s.rejected(e, from)
	case ctx.Err() != nil && maybe:
		return fmt.Errorf("%w: the server may still carry out the command; %s", command.ErrInterrupted, look)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", command.ErrInterrupted, command.ErrUnchanged)
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("the admin API did not respond within %s", command.RequestTimeout)
	case maybe:
		err = fmt.Errorf("the admin API sent no usable response: %w", err)
	default:
		err = fmt.Errorf("the admin API cannot be reached or sent no usable response: check that Pallium is running and that "+
			"-admin-url is right: %w", err)
	}
	if maybe {
		err = fmt.Errorf("%w; the server may still carry out the command; %s", err, look)
	}
	return err
}

// rejected returns the error for the user after the server responded with an error.
func (s *session) rejected(e *apiError, from string) error {
	switch {
	case e.Status == http.StatusUnauthorized:
		return fmt.Errorf("the server rejected the admin token from %s: use the token of this server", from)
	case e.Status == http.StatusMethodNotAllowed, e.Status == http.StatusNotFound && e.field() == "path":
		return fmt.Errorf("this server does not have this command: either it is an older version, or it is a gateway in front of Mimir, "+
			"Cortex or Loki, which has only the commands for tenants, tokens, policies and limits (request %s)", e.RequestID)
	}
	return e
}

// lookup returns the command that shows whether a request to a path of the API was
// carried out.
func lookup(path string) string {
	rest := strings.TrimPrefix(path, apiRoot)
	for prefix, words := range map[string]string{
		"tenants": "tenant list", "tokens": "token list", "access-policies": "policy list", "plans": "limits plans list", "ring": "ring list",
		"aside": "aside list", "compact/accept-loss": "loss list", "queries": "query list",
	} {
		if rest == prefix || strings.HasPrefix(rest, prefix+"/") {
			return words
		}
	}
	return "status"
}
