package admin

import (
	"net/http"
	"time"

	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

type tenantBody struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Plan        string         `json:"plan"`
	Limits      limits.Partial `json:"limits"` // overrides
}

type tenantView struct {
	tenantBody
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	DeletedAt time.Time `json:"deletedAt,omitzero"`
}

func viewTenant(t control.Tenant) tenantView {
	return tenantView{
		tenantBody: tenantBody{Name: string(t.ID), DisplayName: t.DisplayName, Plan: t.Plan, Limits: t.Overrides},
		CreatedAt:  t.CreatedAt, UpdatedAt: t.UpdatedAt, DeletedAt: t.DeletedAt,
	}
}

// sameName rejects a body whose name differs from that in the path.
func sameName(inPath, inBody string) error {
	if inBody != "" && inBody != inPath {
		return badField("name", "name is %q in the body and %q in the path: leave it out of the body, names cannot be changed",
			shorten(inBody), inPath)
	}
	return nil
}

func (a *api) listTenants(w http.ResponseWriter, r *http.Request) error {
	p, q, err := page(r, "includeDeleted")
	if err != nil {
		return err
	}
	deleted, err := flag(q, "includeDeleted")
	if err != nil {
		return err
	}
	items, next, err := a.control.Tenants(r.Context(), p, deleted)
	if err != nil {
		return err
	}
	return list(w, items, next, viewTenant)
}

func (a *api) createTenant(w http.ResponseWriter, r *http.Request) error {
	var b tenantBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	t, err := a.control.CreateTenant(r.Context(),
		control.Tenant{ID: tenant.ID(b.Name), DisplayName: b.DisplayName, Plan: b.Plan, Overrides: b.Limits})
	if err != nil {
		return err
	}
	return created(w, t.ETag, viewTenant(t), "tenants", b.Name)
}

func (a *api) getTenant(w http.ResponseWriter, r *http.Request) error {
	t, err := a.control.Tenant(r.Context(), tenant.ID(param(r, "tenant")))
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, viewTenant(t))
}

func (a *api) putTenant(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	var b tenantBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	name := param(r, "tenant")
	if err := sameName(name, b.Name); err != nil {
		return err
	}
	t, err := a.control.UpdateTenant(r.Context(),
		control.Tenant{ID: tenant.ID(name), DisplayName: b.DisplayName, Plan: b.Plan, Overrides: b.Limits, ETag: etag})
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag, viewTenant(t))
}

func (a *api) deleteTenant(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.control.DeleteTenant(r.Context(), tenant.ID(param(r, "tenant")), etag); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type limitsView struct {
	Tenant    string         `json:"tenant"`
	Plan      string         `json:"plan"`
	Effective limits.Limits  `json:"effective"`
	Defaults  limits.Limits  `json:"defaults"` // without plan and overrides
	Overrides limits.Partial `json:"overrides"`
}

func (a *api) writeLimits(w http.ResponseWriter, r *http.Request, t control.Tenant) error {
	l, err := a.control.Effective(r.Context(), t)
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, t.ETag,
		limitsView{Tenant: string(t.ID), Plan: t.Plan, Effective: l, Defaults: a.control.Defaults(), Overrides: t.Overrides})
}

func (a *api) getLimits(w http.ResponseWriter, r *http.Request) error {
	t, err := a.control.Tenant(r.Context(), tenant.ID(param(r, "tenant")))
	if err != nil {
		return err
	}
	return a.writeLimits(w, r, t)
}

// putLimits replaces the overrides of a tenant and leaves the rest of it unchanged.
func (a *api) putLimits(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	var b struct {
		Overrides *limits.Partial `json:"overrides"`
	}
	if err := decode(r, &b, false); err != nil {
		return err
	}
	if b.Overrides == nil {
		return badField("overrides", "overrides is missing: send the overrides to set, or {} to remove all")
	}
	t, err := a.control.Tenant(r.Context(), tenant.ID(param(r, "tenant")))
	if err != nil {
		return err
	}
	if etag != control.AnyETag {
		t.ETag = etag
	}
	t.Overrides = *b.Overrides
	if t, err = a.control.UpdateTenant(r.Context(), t); err != nil {
		return err
	}
	return a.writeLimits(w, r, t)
}

type planBody struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Limits      limits.Partial `json:"limits"`
}

type planView struct {
	planBody
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

func viewPlan(p control.Plan) planView {
	return planView{
		planBody:  planBody{Name: p.Name, DisplayName: p.DisplayName, Limits: p.Limits},
		CreatedAt: p.CreatedAt,
		UpdatedAt: p.UpdatedAt,
	}
}

func (a *api) listPlans(w http.ResponseWriter, r *http.Request) error {
	p, _, err := page(r)
	if err != nil {
		return err
	}
	items, next, err := a.control.Plans(r.Context(), p)
	if err != nil {
		return err
	}
	return list(w, items, next, viewPlan)
}

func (a *api) createPlan(w http.ResponseWriter, r *http.Request) error {
	var b planBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	p, err := a.control.CreatePlan(r.Context(), control.Plan{Name: b.Name, DisplayName: b.DisplayName, Limits: b.Limits})
	if err != nil {
		return err
	}
	return created(w, p.ETag, viewPlan(p), "plans", b.Name)
}

func (a *api) getPlan(w http.ResponseWriter, r *http.Request) error {
	p, err := a.control.Plan(r.Context(), param(r, "plan"))
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, p.ETag, viewPlan(p))
}

func (a *api) putPlan(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	var b planBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	name := param(r, "plan")
	if err := sameName(name, b.Name); err != nil {
		return err
	}
	p, err := a.control.UpdatePlan(r.Context(), control.Plan{Name: name, DisplayName: b.DisplayName, Limits: b.Limits, ETag: etag})
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, p.ETag, viewPlan(p))
}

func (a *api) deletePlan(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.control.DeletePlan(r.Context(), param(r, "plan"), etag); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
