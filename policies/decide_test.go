package policies

import (
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

func TestDecide(t *testing.T) {
	one := tenant.Identity{Tenants: []tenant.ID{"a"}, Scopes: []tenant.Scope{tenant.MetricsRead}}
	two := tenant.Identity{Tenants: []tenant.ID{"a", "b"}, Scopes: tenant.Scopes()}
	read, write := tenant.MetricsRead, tenant.MetricsWrite
	tests := []struct {
		name   string
		id     tenant.Identity
		action Action
		want   Reason
		tenant tenant.ID
	}{
		{"one tenant, nothing selected", one, Action{Scope: read}, Allowed, "a"},
		{"one tenant, selected", one, Action{Scope: read, Selector: "a"}, Allowed, "a"},
		{"one tenant, other selected", one, Action{Scope: read, Selector: "b"}, TenantNotAllowed, ""},
		{"case is not folded", one, Action{Scope: read, Selector: "A"}, TenantNotAllowed, ""},
		{"scope missing", one, Action{Scope: write}, MissingScope, ""},
		{"missing scope takes precedence over the tenant", one, Action{Scope: write, Selector: "b"}, MissingScope, ""},
		{"route without scope", one, Action{}, MissingScope, ""},
		{"no tenants", tenant.Identity{Scopes: tenant.Scopes()}, Action{Scope: read, Selector: "a"}, NoTenants, ""},
		{"zero identity", tenant.Identity{}, Action{}, NoTenants, ""},
		{"two tenants, nothing selected", two, Action{Scope: read}, SelectorRequired, ""},
		{"two tenants, selected", two, Action{Scope: write, Selector: "b"}, Allowed, "b"},
		{"two tenants, third selected", two, Action{Scope: write, Selector: "c"}, TenantNotAllowed, ""},
		{"federation", two, Action{Scope: read, Selector: "a|b"}, SelectorFederation, ""},
		{"federation of one", two, Action{Scope: read, Selector: "a|"}, SelectorFederation, ""},
		{"path element", two, Action{Scope: read, Selector: ".."}, SelectorInvalid, ""},
		{"slash", two, Action{Scope: read, Selector: "a/b"}, SelectorInvalid, ""},
		{"leading space", two, Action{Scope: read, Selector: " a"}, SelectorInvalid, ""},
		{"comma list", two, Action{Scope: read, Selector: "a,b"}, SelectorInvalid, ""},
		{"percent", two, Action{Scope: read, Selector: "%61"}, SelectorInvalid, ""},
		{"Basic user selects", two, Action{Scope: read, BasicUser: "b"}, Allowed, "b"},
		{"Basic user agrees", two, Action{Scope: read, BasicUser: "b", Selector: "b"}, Allowed, "b"},
		{"Basic user disagrees", two, Action{Scope: read, BasicUser: "a", Selector: "b"}, BasicUserDisagrees, ""},
		{"Basic user outside the realm", two, Action{Scope: read, BasicUser: "c"}, TenantNotAllowed, ""},
		{"Basic user is not a tenant ID", two, Action{Scope: read, BasicUser: "a|b"}, TenantNotAllowed, ""},
		{"identity with an invalid tenant", tenant.Identity{Tenants: []tenant.ID{"../x"}, Scopes: tenant.Scopes()},
			Action{Scope: read}, TenantNotAllowed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(tt.id, tt.action)
			if d.Reason != tt.want || d.Allowed != (tt.want == Allowed) || d.Access.Tenant != tt.tenant {
				t.Fatalf("Decide = %+v, want %s for tenant %q", d, tt.want, tt.tenant)
			}
			if err := d.Access.Check(); (err == nil) != d.Allowed {
				t.Fatalf("access of decision %+v: %v", d, err)
			}
		})
	}
}
