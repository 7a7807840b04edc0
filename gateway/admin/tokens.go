package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
)

// actor is the actor in all audit events, because there is only one admin credential.
const actor = "admin"

type tokenBody struct {
	Name           string         `json:"name"`
	AccessPolicyID string         `json:"accessPolicyId"`
	Tenant         string         `json:"tenant"`
	Scopes         []tenant.Scope `json:"scopes"`
	ExpiresAt      expiry         `json:"expiresAt"`

	MaxConcurrentRequests int `json:"maxConcurrentRequests"`
}

// expiry is a time or "never".
type expiry time.Time

func (e expiry) MarshalJSON() ([]byte, error) {
	if time.Time(e).Equal(control.Never()) {
		return []byte(`"never"`), nil
	}
	return time.Time(e).MarshalJSON()
}

func (e *expiry) UnmarshalJSON(data []byte) error {
	if string(data) == `"never"` {
		*e = expiry(control.Never())
		return nil
	}
	var t time.Time
	if err := t.UnmarshalJSON(data); err != nil {
		return badField("expiresAt", `expiresAt is %s: it must be a time such as "2030-12-31T00:00:00Z", or "never"`, shorten(string(data)))
	}
	*e = expiry(t)
	return nil
}

type tokenView struct {
	ID                 string         `json:"id"`
	Name               string         `json:"name"`
	AccessPolicyID     string         `json:"accessPolicyId"`
	Tenants            []tenant.ID    `json:"tenants"`
	Scopes             []tenant.Scope `json:"scopes"`
	KeyID              string         `json:"keyId"`
	Status             string         `json:"status"`
	CreatedAt          time.Time      `json:"createdAt"`
	ExpiresAt          expiry         `json:"expiresAt"`
	LastUsedAt         time.Time      `json:"lastUsedAt,omitzero"`
	RotatedAt          time.Time      `json:"rotatedAt,omitzero"`
	RevokedAt          time.Time      `json:"revokedAt,omitzero"`
	PreviousKeyID      string         `json:"previousKeyId,omitempty"`
	PreviousValidUntil time.Time      `json:"previousValidUntil,omitzero"`

	MaxConcurrentRequests int `json:"maxConcurrentRequests"` // 0: no limit
}

func (a *api) viewToken(t control.Token) tokenView {
	return tokenView{
		ID: t.ID, Name: t.Name, AccessPolicyID: t.Policy,
		Tenants: append([]tenant.ID{}, t.Tenants...), Scopes: append([]tenant.Scope{}, t.Scopes...),
		KeyID: t.KeyID, Status: t.Status(a.now()), CreatedAt: t.CreatedAt, ExpiresAt: expiry(t.ExpiresAt),
		LastUsedAt: t.LastUsedAt, RotatedAt: t.RotatedAt, RevokedAt: t.RevokedAt,
		PreviousKeyID: t.PreviousKeyID, PreviousValidUntil: t.PreviousValidUntil,
		MaxConcurrentRequests: t.MaxConcurrentRequests,
	}
}

// newTokenView is the only response that contains the key itself.
type newTokenView struct {
	tokenView
	Token      string `json:"token"`
	Prometheus string `json:"prometheus,omitempty"`
	Grafana    string `json:"grafana,omitempty"`
}

func (a *api) viewNewToken(t control.Token, key apikey.Key) (newTokenView, error) {
	v := newTokenView{tokenView: a.viewToken(t), Token: key.Text()}
	var err error
	if slices.Contains(t.Scopes, tenant.MetricsWrite) {
		if v.Prometheus, err = prometheusSnippet(a.edge, t.Tenants, key); err != nil {
			return v, err
		}
	}
	if slices.Contains(t.Scopes, tenant.MetricsRead) {
		v.Grafana, err = grafanaSnippet(a.edge, t.Tenants, key)
	}
	return v, err
}

func (a *api) listTokens(w http.ResponseWriter, r *http.Request) error {
	p, q, err := page(r, "accessPolicyId", "tenant")
	if err != nil {
		return err
	}
	items, next, err := a.control.Tokens(r.Context(),
		control.TokenQuery{Page: p, Policy: q.Get("accessPolicyId"), Tenant: tenant.ID(q.Get("tenant"))})
	if err != nil {
		return err
	}
	return list(w, items, next, a.viewToken)
}

func (a *api) issueToken(w http.ResponseWriter, r *http.Request) error {
	var b tokenBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	t, key, err := a.control.IssueToken(r.Context(), control.TokenRequest{
		Name: b.Name, Policy: b.AccessPolicyID, Tenant: tenant.ID(b.Tenant), Scopes: b.Scopes, ExpiresAt: time.Time(b.ExpiresAt),
		MaxConcurrentRequests: b.MaxConcurrentRequests,
	})
	if err != nil {
		return err
	}
	v, err := a.viewNewToken(t, key)
	if err != nil {
		return err
	}
	return created(w, t.ETag, v, "tokens", t.ID)
}

func (a *api) getToken(w http.ResponseWriter, r *http.Request) error {
	t, err := a.control.Token(r.Context(), param(r, "token"))
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, a.viewToken(t))
}

func (a *api) putToken(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	var b struct {
		MaxConcurrentRequests *int `json:"maxConcurrentRequests"`
	}
	if err := decode(r, &b, false); err != nil {
		return err
	}
	if b.MaxConcurrentRequests == nil {
		return badField("maxConcurrentRequests", "the body must have maxConcurrentRequests; 0 removes the limit")
	}
	t, err := a.control.UpdateToken(r.Context(), param(r, "token"), etag, *b.MaxConcurrentRequests)
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, a.viewToken(t))
}

func (a *api) rotateToken(w http.ResponseWriter, r *http.Request) error {
	var b struct {
		GraceSeconds *int64 `json:"graceSeconds"`
	}
	if err := decode(r, &b, true); err != nil {
		return err
	}
	grace := control.DefaultGrace
	if b.GraceSeconds != nil {
		most := int64(control.MaxGrace / time.Second)
		if *b.GraceSeconds < 0 || *b.GraceSeconds > most {
			return badField("graceSeconds", "graceSeconds is %d: it must be between 0 and %d", *b.GraceSeconds, most)
		}
		grace = time.Duration(*b.GraceSeconds) * time.Second
	}
	t, key, err := a.control.RotateToken(r.Context(), param(r, "token"), grace)
	if err != nil {
		return err
	}
	v, err := a.viewNewToken(t, key)
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, v)
}

func (a *api) revokeToken(w http.ResponseWriter, r *http.Request) error {
	if err := decode(r, &struct{}{}, true); err != nil {
		return err
	}
	t, err := a.control.RevokeToken(r.Context(), param(r, "token"))
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, a.viewToken(t))
}

func (a *api) deleteToken(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.control.DeleteToken(r.Context(), param(r, "token"), etag); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) whoami(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]any{"actor": actor, "edgeUrl": a.edge})
	return nil
}

type eventView struct {
	control.Event
	Status int    `json:"status"` // 0: no outcome is recorded, for example while the request is in progress
	Target string `json:"target,omitempty"`
}

func (a *api) listEvents(w http.ResponseWriter, r *http.Request) error {
	p, _, err := page(r)
	if err != nil {
		return err
	}
	items, next, err := a.control.Events(r.Context(), p)
	if err != nil {
		return err
	}
	return list(w, items, next, func(e control.Event) eventView {
		return eventView{Event: e, Status: e.Status, Target: e.Target}
	})
}
