package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/policies/limits"
)

// Tenant is one tenant. Its ID never changes and is never reused: the record of a deleted
// tenant is kept forever.
type Tenant struct {
	ID          tenant.ID      `json:"id"`
	DisplayName string         `json:"displayName,omitempty"`
	Plan        string         `json:"plan,omitempty"`
	Overrides   limits.Partial `json:"overrides"`
	CreatedAt   time.Time      `json:"createdAt"`
	UpdatedAt   time.Time      `json:"updatedAt"`
	DeletedAt   time.Time      `json:"deletedAt,omitzero"` // zero: not deleted
	ETag        string         `json:"-"`
}

// Deleted reports whether the tenant was deleted.
func (t Tenant) Deleted() bool { return !t.DeletedAt.IsZero() }

func (t *Tenant) setETag(e string) { t.ETag = e }

// UnmarshalJSON ignores limits that this version does not know, which a later version may
// have stored, and lowers values that only an earlier version allowed.
func (t *Tenant) UnmarshalJSON(data []byte) error {
	type plain Tenant
	return unmarshalWithLimits(data, (*plain)(t), "overrides", &t.Overrides)
}

// unmarshalWithLimits decodes a record. The field that holds limits is decoded leniently.
func unmarshalWithLimits(data []byte, into any, field string, l *limits.Partial) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	stored := fields[field]
	delete(fields, field)
	rest, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(rest, into); err != nil {
		return err
	}
	var values map[string]json.RawMessage
	if len(stored) > 0 {
		if err := json.Unmarshal(stored, &values); err != nil {
			return err
		}
	}
	for key, value := range values {
		if !slices.Contains(limits.Names(), key) {
			delete(values, key)
			continue
		}
		if n, err := strconv.ParseInt(string(value), 10, 64); err == nil && n > limits.Most(key) {
			values[key] = strconv.AppendInt(nil, limits.Most(key), 10)
		}
	}
	known, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return json.Unmarshal(known, l)
}

func tenantKey(id tenant.ID) string { return prefTenant + string(id) }

// reserved returns the names that Mimir and Cortex reserve, because they use them in the
// bucket beside the tenants' directories.
func reserved() []string {
	return []string{"__markers__", "__mimir_cluster", "user-index.json.gz"}
}

// CreateTenant creates a tenant with ID, display name, plan and overrides. An ID that is
// or ever was in use is a Conflict.
func (c *Control) CreateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	if _, err := tenant.ParseID(string(t.ID)); err != nil {
		return Tenant{}, fail(Invalid, "name", "%s", err)
	}
	if slices.Contains(reserved(), string(t.ID)) {
		return Tenant{}, fail(Invalid, "name", "name %q is reserved: choose another one", t.ID)
	}
	if err := c.checkTenant(ctx, t); err != nil {
		return Tenant{}, err
	}
	t.CreatedAt = c.moment()
	t.UpdatedAt, t.DeletedAt = t.CreatedAt, time.Time{}
	ok, err := c.save(ctx, tenantKey(t.ID), "", &t)
	if err != nil {
		return Tenant{}, err
	}
	if !ok {
		return Tenant{}, c.tenantTaken(ctx, t.ID)
	}
	return t, c.publish(ctx, changedTenant, string(t.ID))
}

func (c *Control) tenantTaken(ctx context.Context, id tenant.ID) error {
	var old Tenant
	if err := c.load(ctx, tenantKey(id), &old); err != nil {
		return err
	}
	if old.Deleted() {
		return fail(Conflict, "name", "tenant %s was deleted on %s and its name cannot be reused: choose another name",
			id, old.DeletedAt.Format(time.DateOnly))
	}
	return fail(Conflict, "name", "tenant %s already exists", id)
}

// checkTenant makes the checks that CreateTenant and UpdateTenant have in common.
func (c *Control) checkTenant(ctx context.Context, t Tenant) error {
	if err := checkText("displayName", t.DisplayName); err != nil {
		return err
	}
	if t.Plan == "" {
		return nil
	}
	_, err := c.Plan(ctx, t.Plan)
	if IsKind(err, NotFound) {
		return fail(Invalid, "plan", "plan %q does not exist: create it first", t.Plan)
	}
	return err
}

// Tenant returns a tenant that is not deleted. The error for any other is NotFound and
// wraps tenant.ErrUnknown.
func (c *Control) Tenant(ctx context.Context, id tenant.ID) (Tenant, error) {
	var t Tenant
	err := errNoRow
	if _, bad := tenant.ParseID(string(id)); bad == nil {
		err = c.load(ctx, tenantKey(id), &t)
	}
	if err != nil && !errors.Is(err, errNoRow) {
		return Tenant{}, err
	}
	if err != nil || t.Deleted() {
		return Tenant{}, missingTenant(id, t.DeletedAt)
	}
	return t, nil
}

// missingTenant is the error of a tenant that was deleted, or never existed.
func missingTenant(id tenant.ID, deleted time.Time) *Error {
	e := fail(NotFound, "tenant", "tenant %.150q does not exist", id)
	e.Hint = fmt.Sprintf("create it with: pallium tenant create %.150s", id)
	if !deleted.IsZero() {
		e = fail(NotFound, "tenant", "tenant %q was deleted on %s", id, deleted.Format(time.DateOnly))
	}
	e.err = tenant.ErrUnknown
	return e
}

// Tenants lists tenants by ID, including deleted ones if deleted is set.
func (c *Control) Tenants(ctx context.Context, p Page, deleted bool) (out []Tenant, next string, err error) {
	next, err = c.list(ctx, prefTenant, fmt.Sprint("deleted=", deleted), p, func(r row) (bool, error) {
		var t Tenant
		if err := decode(r, &t); err != nil || (t.Deleted() && !deleted) {
			return false, err
		}
		if len(out) < pageSize(p) {
			out = append(out, t)
		}
		return true, nil
	})
	return out, next, err
}

// AllTenants calls visit with every tenant, including deleted ones, until visit returns
// false. It is for background work such as retention.
func (c *Control) AllTenants(ctx context.Context, visit func(Tenant) bool) error {
	var bad error
	err := c.store.ReadRows(ctx, []rows.Range{rows.Prefix(prefTenant)}, newest, func(r rows.Row) bool {
		var t Tenant
		if bad = decode(row(r), &t); bad != nil {
			return false
		}
		return visit(t)
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return fmt.Errorf("list tenants: %w", err)
	}
	return nil
}

// UpdateTenant replaces display name, plan and overrides of the tenant if its ETag is
// t.ETag.
func (c *Control) UpdateTenant(ctx context.Context, t Tenant) (Tenant, error) {
	old, err := c.Tenant(ctx, t.ID)
	if err != nil {
		return Tenant{}, err
	}
	if err := match(t.ETag, old.ETag); err != nil {
		return Tenant{}, err
	}
	if err := c.checkTenant(ctx, t); err != nil {
		return Tenant{}, err
	}
	next := old
	next.DisplayName, next.Plan, next.Overrides, next.UpdatedAt = t.DisplayName, t.Plan, t.Overrides, c.moment()
	return next, c.replace(ctx, tenantKey(t.ID), old.ETag, &next, changedTenant, string(t.ID))
}

// DeleteTenant marks the tenant as deleted if it has the given ETag. No credential is valid for it
// any more, immediately in this process and within a second in others. Its data is deleted in the
// background.
func (c *Control) DeleteTenant(ctx context.Context, id tenant.ID, etag string) error {
	if id == tenant.Self {
		return fail(Conflict, "tenant", "tenant %s holds Pallium's own metrics and cannot be deleted", id)
	}
	t, err := c.Tenant(ctx, id)
	if err != nil {
		return err
	}
	if err := match(etag, t.ETag); err != nil {
		return err
	}
	old := t.ETag
	t.DeletedAt = c.moment()
	return c.replace(ctx, tenantKey(id), old, &t, changedTenant, string(id))
}

// replace overwrites a record that has the given ETag and publishes the change.
func (c *Control) replace(ctx context.Context, key, etag string, v record, kind string, ids ...string) error {
	ok, err := c.save(ctx, key, etag, v)
	if err != nil {
		return err
	}
	if !ok {
		return stale()
	}
	return c.publish(ctx, kind, ids...)
}

// pageSize returns the number of items of a page; list checks it.
func pageSize(p Page) int {
	if p.Size == 0 {
		return DefaultPageSize
	}
	return p.Size
}

const (
	maxText = 200 // bytes of a display text
	maxName = 150 // bytes of a name
)

// checkText validates a text for display.
func checkText(field, s string) error {
	if len(s) > maxText {
		return fail(Invalid, field, "%s has %d bytes; the limit is %d bytes", field, len(s), maxText)
	}
	if !utf8.ValidString(s) {
		return fail(Invalid, field, "%s is not valid UTF-8", field)
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return fail(Invalid, field, "%s contains the control character %q: remove it", field, r)
		}
	}
	if s != "" && strings.TrimSpace(s) == "" {
		return fail(Invalid, field, "%s has only white space", field)
	}
	return nil
}

// checkName validates the name of a plan or policy, which is used in paths.
func checkName(field, s string) error {
	ok := s != "" && len(s) <= maxName
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = alnum || i > 0 && (c == '-' || c == '_' || c == '.')
	}
	if !ok {
		return fail(Invalid, field, "%s %.200q is not allowed: use 1 to %d letters, digits and - _ . and begin with a letter or digit",
			field, s, maxName)
	}
	return nil
}
