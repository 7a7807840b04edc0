package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies"
	"github.com/palliumhq/pallium/policies/limits"
)

// authRejection is the answer to a credential that was not accepted. Which of the
// kinds of 401 it was, only log and metrics tell.
func (x *exchange) authRejection(err error) *rejection {
	var e *authn.Error
	if !errors.As(err, &e) {
		e = &authn.Error{Kind: authn.Unavailable, Reason: "authenticator", Err: err}
	}
	x.g.metrics.authFailures.WithLabelValues(e.Kind.String(), e.Reason).Inc()
	switch e.Kind {
	case authn.Missing, authn.Invalid, authn.Expired, authn.Revoked:
		return &rejection{status: http.StatusUnauthorized, reason: "auth_" + e.Kind.String(), detail: err,
			text: "a valid credential is needed: send an API key or JWT as Bearer, or as the password of Basic with the tenant as user"}
	case authn.Throttled:
		// Not 429: Prometheus drops what is answered with that, and this
		// credential may be a good one.
		return &rejection{status: http.StatusServiceUnavailable, reason: "auth_throttled", detail: err,
			text: "too many credentials wait to be checked, most of them from your network; try again", retry: max(e.RetryAfter, time.Second)}
	}
	if x.r.Context().Err() != nil {
		return clientGone()
	}
	return unavailable("auth_unavailable", err)
}

// denied is the answer to a decision against the request.
func denied(reason policies.Reason, scope tenant.Scope) *rejection {
	switch reason {
	case policies.MissingScope:
		return &rejection{status: http.StatusForbidden, reason: string(reason), text: "the credential lacks the scope " + string(scope)}
	case policies.SelectorRequired:
		return badRequest(string(reason), "the credential is valid for several tenants: choose one with the header "+tenant.HeaderOrgID)
	case policies.SelectorInvalid:
		return badRequest(string(reason), "the header "+tenant.HeaderOrgID+" is not a tenant ID")
	case policies.SelectorFederation:
		return badRequest(string(reason),
			"the header "+tenant.HeaderOrgID+" names several tenants; requests over several tenants are not supported")
	case policies.BasicUserDisagrees:
		return &rejection{status: http.StatusForbidden, reason: string(reason),
			text: "the user of the Basic credential and the header " + tenant.HeaderOrgID + " name different tenants"}
	}
	return tenantRejected(string(reason))
}

// tenantRejected reads the same whether the tenant is another's or does not
// exist, so that nobody learns which names are taken.
func tenantRejected(reason string) *rejection {
	return &rejection{status: http.StatusForbidden, reason: reason, text: "the credential is not valid for this tenant"}
}

func unavailable(reason string, err error) *rejection {
	return &rejection{status: http.StatusServiceUnavailable, reason: reason, detail: err,
		text: "the service is temporarily unavailable, try again", retry: 2 * time.Second}
}

// prometheusVersion is the Prometheus whose API the backend serves. Grafana
// decides by it which calls a data source understands, and would take our own
// version for a Prometheus of long ago.
const prometheusVersion = "3.16.0"

type versionInfo struct{ version, revision string }

// answers are the handlers of the routes that the gateway answers itself.
func answers() ownHandlers {
	return ownHandlers{
		open: map[string]openHandler{
			"buildinfo": (*exchange).serveBuildInfo,
			"ready":     (*exchange).serveReady,
			"healthy":   (*exchange).serveHealthy,
		},
		local: map[string]localHandler{
			"user_limits": (*exchange).serveUserLimits,
		},
	}
}

// serveBuildInfo answers as Prometheus does. Grafana takes empty features for
// Prometheus, any for Mimir.
func (x *exchange) serveBuildInfo() *rejection {
	return x.json(map[string]any{"status": "success", "data": map[string]any{
		"application": "Pallium", "version": prometheusVersion, "palliumVersion": x.g.version.version, "revision": x.g.version.revision,
		"branch": "", "buildUser": "", "buildDate": "", "goVersion": runtime.Version(),
		"features": map[string]string{},
	}})
}

// serveReady tells whether the process serves requests.
func (x *exchange) serveReady() *rejection {
	if x.g.ready != nil {
		if err := x.g.ready(x.r.Context()); err != nil {
			return &rejection{status: http.StatusServiceUnavailable, reason: "not_ready", text: "not ready", detail: err}
		}
	}
	return x.text("ready")
}

// serveHealthy tells that the process runs.
func (x *exchange) serveHealthy() *rejection { return x.text("healthy") }

// serveUserLimits tells a tenant its limits.
func (x *exchange) serveUserLimits(lim *limits.Limits) *rejection { return x.json(lim) }

func (x *exchange) text(line string) *rejection {
	x.rec.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.rec.WriteHeader(http.StatusOK)
	_, _ = x.rec.Write([]byte(line + "\n"))
	return nil
}

func (x *exchange) json(v any) *rejection {
	data, err := json.Marshal(v)
	if err != nil {
		return &rejection{status: http.StatusInternalServerError, reason: "internal", text: "internal error", detail: err}
	}
	x.rec.Header().Set("Content-Type", "application/json")
	x.rec.WriteHeader(http.StatusOK)
	_, _ = x.rec.Write(append(data, '\n'))
	return nil
}
