package openapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi"

	"github.com/palliumhq/pallium/policies/routes"
)

// TestDocument checks that the document is valid, and that it has every route and method
// of the route table with its scope, and no other one.
func TestDocument(t *testing.T) {
	table := routes.Table()
	data, err := Document(table, "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := libopenapi.NewDocument(data)
	if err != nil {
		t.Fatal(err)
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{} // scopes by method and path
	for _, rt := range table {
		for _, path := range rt.Paths {
			for _, method := range rt.Methods {
				want[method+" "+path] = string(rt.Scope)
			}
		}
	}
	ids := map[string]bool{}
	for path, item := range model.Model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			key := strings.ToUpper(method) + " " + path
			scope, ok := want[key]
			if !ok {
				t.Errorf("%s is not in the route table", key)
			}
			delete(want, key)
			var scopes []string
			for _, s := range op.Security {
				for _, list := range s.Requirements.FromOldest() {
					scopes = append(scopes, list...)
				}
			}
			if scope == "" && len(scopes) > 0 || scope != "" && !slices.Equal(scopes, []string{scope, scope}) {
				t.Errorf("%s: scopes %v, want %s for both schemes", key, scopes, scope)
			}
			if ids[op.OperationId] || op.Summary == "" || op.Responses == nil {
				t.Errorf("%s: operation ID %q, summary %q, has responses: %t; want a unique ID, a summary and responses", key,
					op.OperationId, op.Summary, op.Responses != nil)
			}
			ids[op.OperationId] = true
			named := false
			for _, p := range op.Parameters {
				named = named || p.In == "path" && p.Name == "name"
			}
			if want := strings.Contains(path, "{name}"); named != want {
				t.Errorf("%s: declares the path parameter `name`: %t, want %t", key, named, want)
			}
		}
	}
	for key := range want {
		t.Errorf("%s is missing", key)
	}
}

// TestDescriptions checks that every route of the table is described in operations.go, and
// nothing else.
func TestDescriptions(t *testing.T) {
	missing, unknown := Undescribed(routes.Table())
	if len(missing)+len(unknown) > 0 {
		t.Errorf("operations.go: routes without a description: %v; descriptions without a route: %v", missing, unknown)
	}
	table := append(routes.Table()[1:], routes.Route{Name: "new"})
	missing, unknown = Undescribed(table)
	if !slices.Equal(missing, []string{"new"}) || !slices.Equal(unknown, []string{"push"}) {
		t.Errorf("Undescribed of a changed table: missing %v, unknown %v; want [new], [push]", missing, unknown)
	}
}

// TestUndescribedRoute checks that a route without a description is in the document.
func TestUndescribedRoute(t *testing.T) {
	data, err := Document([]routes.Route{{Name: "new", Methods: []string{"GET"}, Paths: []string{"/new"}, Scope: "metrics:read"}}, "1")
	if err != nil || !strings.Contains(string(data), "/new:") || !strings.Contains(string(data), "new_get") {
		t.Errorf("%v\n%s", err, data)
	}
}
