package control

import (
	"context"
	"errors"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// Plan is a named set of limits that tenants share.
type Plan struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName,omitempty"`
	Limits      limits.Partial `json:"limits"`
	CreatedAt   time.Time      `json:"createdAt"`
	UpdatedAt   time.Time      `json:"updatedAt"`
	ETag        string         `json:"-"`
}

func (p *Plan) setETag(e string) { p.ETag = e }

// UnmarshalJSON treats limits of other versions like Tenant.UnmarshalJSON.
func (p *Plan) UnmarshalJSON(data []byte) error {
	type plain Plan
	return unmarshalWithLimits(data, (*plain)(p), "limits", &p.Limits)
}

// CreatePlan creates a plan with name, display name and limits.
func (c *Control) CreatePlan(ctx context.Context, p Plan) (Plan, error) {
	if err := checkName("name", p.Name); err != nil {
		return Plan{}, err
	}
	if err := checkText("displayName", p.DisplayName); err != nil {
		return Plan{}, err
	}
	p.CreatedAt = c.moment()
	p.UpdatedAt = p.CreatedAt
	ok, err := c.save(ctx, prefPlan+p.Name, "", &p)
	if err != nil {
		return Plan{}, err
	}
	if !ok {
		return Plan{}, fail(Conflict, "name", "plan %s already exists", p.Name)
	}
	return p, c.publish(ctx, changedPlan, p.Name)
}

// Plan returns a plan.
func (c *Control) Plan(ctx context.Context, name string) (Plan, error) {
	var p Plan
	if err := checkName("name", name); err != nil {
		return Plan{}, fail(NotFound, "plan", "plan %.200q does not exist", name)
	}
	err := c.load(ctx, prefPlan+name, &p)
	if errors.Is(err, errNoRow) {
		return Plan{}, fail(NotFound, "plan", "plan %q does not exist", name)
	}
	return p, err
}

// Plans lists plans by name.
func (c *Control) Plans(ctx context.Context, p Page) (out []Plan, next string, err error) {
	next, err = c.list(ctx, prefPlan, "", p, func(r row) (bool, error) {
		var v Plan
		if err := decode(r, &v); err != nil {
			return false, err
		}
		if len(out) < pageSize(p) {
			out = append(out, v)
		}
		return true, nil
	})
	return out, next, err
}

// UpdatePlan replaces display name and limits of the plan if its ETag is p.ETag. The
// change takes effect for tenants of the plan immediately in this process, and within a
// second in others.
func (c *Control) UpdatePlan(ctx context.Context, p Plan) (Plan, error) {
	old, err := c.Plan(ctx, p.Name)
	if err != nil {
		return Plan{}, err
	}
	if err := match(p.ETag, old.ETag); err != nil {
		return Plan{}, err
	}
	if err := checkText("displayName", p.DisplayName); err != nil {
		return Plan{}, err
	}
	next := old
	next.DisplayName, next.Limits, next.UpdatedAt = p.DisplayName, p.Limits, c.moment()
	return next, c.replace(ctx, prefPlan+p.Name, old.ETag, &next, changedPlan, p.Name)
}

// DeletePlan deletes a plan that no tenant uses.
func (c *Control) DeletePlan(ctx context.Context, name, etag string) error {
	p, err := c.Plan(ctx, name)
	if err != nil {
		return err
	}
	if err := match(etag, p.ETag); err != nil {
		return err
	}
	var user string
	err = c.AllTenants(ctx, func(t Tenant) bool {
		if t.Plan == name && !t.Deleted() {
			user = string(t.ID)
		}
		return user == ""
	})
	if err != nil {
		return err
	}
	if user != "" {
		return fail(Conflict, "plan", "plan %s is in use, for example by tenant %s: move its tenants to another plan first", name, user)
	}
	ok, err := c.remove(ctx, prefPlan+name, p.ETag)
	if err != nil {
		return err
	}
	if !ok {
		return stale()
	}
	return c.publish(ctx, changedPlan, name)
}
