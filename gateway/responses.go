package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"time"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/openapi"
	"github.com/palliumhq/pallium/policies"
	"github.com/palliumhq/pallium/policies/limits"
)

// authRejection returns the response to a credential that was not accepted. Clients see
// one text for every kind of 401; only the log and the metrics have the kind.
func (x *exchange) authRejection(err error) *rejection {
	var e *authn.Error
	if !errors.As(err, &e) {
		e = &authn.Error{Kind: authn.Unavailable, Reason: "authenticator", Err: err}
	}
	x.g.metrics.authFailures.WithLabelValues(e.Kind.String(), e.Reason).Inc()
	switch e.Kind {
	case authn.Missing, authn.Invalid, authn.Expired, authn.Revoked:
		return &rejection{status: http.StatusUnauthorized, reason: "auth_" + e.Kind.String(), detail: err,
			text: "the credential is missing, invalid, expired or revoked: send a valid API key or JWT as a Bearer token, or as the password " +
				"of Basic authentication with the tenant as the user name"}
	case authn.Throttled:
		// Not 429: Prometheus drops a batch that gets 429, and this
		// credential may be valid.
		return &rejection{status: http.StatusServiceUnavailable, reason: "auth_throttled", detail: err,
			text: "too many credentials from your network are waiting to be verified; try again later", retry: max(e.RetryAfter, time.Second)}
	}
	if x.r.Context().Err() != nil {
		return clientGone()
	}
	return unavailable("auth_unavailable", err)
}

// denied returns the response to a request that the policy decision does not allow.
func denied(reason policies.Reason, scope tenant.Scope) *rejection {
	switch reason {
	case policies.MissingScope:
		return &rejection{status: http.StatusForbidden, reason: string(reason), text: "the credential does not have the scope " + string(scope)}
	case policies.SelectorRequired:
		return badRequest(string(reason), "the credential is valid for several tenants: select one with the header "+tenant.HeaderOrgID)
	case policies.SelectorInvalid:
		return badRequest(string(reason), "the header "+tenant.HeaderOrgID+" is not a tenant ID")
	case policies.SelectorFederation:
		return badRequest(string(reason),
			"the header "+tenant.HeaderOrgID+" names several tenants; queries across tenants are not supported, send one tenant ID")
	case policies.BasicUserDisagrees:
		return &rejection{status: http.StatusForbidden, reason: string(reason),
			text: "the user name of Basic authentication and the header " + tenant.HeaderOrgID + " name different tenants: send the same " +
				"tenant in both, or only one of them"}
	}
	return tenantRejected(string(reason))
}

// tenantRejected returns the same text for another customer's tenant and for one that
// does not exist, so that a client cannot find out which tenant names exist.
func tenantRejected(reason string) *rejection {
	return &rejection{status: http.StatusForbidden, reason: reason, text: "the credential is not valid for this tenant"}
}

func unavailable(reason string, err error) *rejection {
	return &rejection{status: http.StatusServiceUnavailable, reason: reason, detail: err,
		text: "the service is temporarily unavailable; try again later", retry: 2 * time.Second}
}

// prometheusVersion is the version of Prometheus whose API the backend serves. Grafana
// decides by this version which API calls a data source supports; it would mistake
// Pallium's own version for a very old Prometheus.
const prometheusVersion = "3.16.0"

type versionInfo struct{ version, revision string }

// newOwnHandlers returns the handlers of the routes that the gateway serves itself.
func newOwnHandlers() ownHandlers {
	return ownHandlers{
		open: map[string]openHandler{
			"buildinfo":              (*exchange).serveBuildInfo,
			"alertmanager_buildinfo": (*exchange).serveBuildInfo,
			"ready":                  (*exchange).serveReady,
			"healthy":                (*exchange).serveHealthy,
		},
		local: map[string]localHandler{
			"user_limits": (*exchange).serveUserLimits,
			"openapi":     (*exchange).serveOpenAPI,
		},
	}
}

// serveBuildInfo responds as Prometheus does. Grafana takes a server with empty features
// for Prometheus, and one with any feature for Mimir, whose API for rules it then uses.
func (x *exchange) serveBuildInfo() *rejection {
	return x.json(map[string]any{"status": "success", "data": map[string]any{
		"application": "Pallium", "version": prometheusVersion, "palliumVersion": x.g.version.version, "revision": x.g.version.revision,
		"branch": "", "buildUser": "", "buildDate": "", "goVersion": runtime.Version(),
		"features": map[string]string{"ruler_config_api": "true", "alertmanager_config_api": "true"},
	}})
}

// serveReady reports whether the process is ready to serve requests.
func (x *exchange) serveReady() *rejection {
	if x.g.ready != nil {
		if err := x.g.ready(x.r.Context()); err != nil {
			return &rejection{status: http.StatusServiceUnavailable, reason: "not_ready", text: "not ready", retry: 5 * time.Second, detail: err}
		}
	}
	return x.text("ready")
}

// serveHealthy reports that the process is running.
func (x *exchange) serveHealthy() *rejection { return x.text("healthy") }

// serveUserLimits returns the tenant's effective limits.
func (x *exchange) serveUserLimits(lim *limits.Limits) *rejection { return x.json(lim) }

// serveOpenAPI returns the description of the routes.
func (x *exchange) serveOpenAPI(*limits.Limits) *rejection {
	x.rec.Header().Set("Content-Type", openapi.ContentType)
	x.rec.WriteHeader(http.StatusOK)
	_, _ = x.rec.Write(x.g.openapi)
	return nil
}

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
