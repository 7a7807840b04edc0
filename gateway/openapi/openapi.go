// Package openapi describes the API of tenants as a document of OpenAPI 3.1
// (https://spec.openapis.org/oas/v3.1.1). Paths, methods and scopes are those of the route
// table; operations.go has summaries, parameters and media types.
package openapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/routes"
)

// ContentType is the media type of the document.
const ContentType = "application/yaml; charset=utf-8"

// Document returns the document of the routes in the table, as YAML. version is that of
// Pallium.
func Document(table []routes.Route, version string) ([]byte, error) {
	d := document{
		OpenAPI: "3.1.0",
		Info: info{Title: "Pallium", Version: version,
			Description: "The API of tenants. Errors of the query API have Prometheus' JSON format, those of writes are a line of text."},
		Servers:    []server{{URL: "/"}},
		Paths:      map[string]map[string]*operation{},
		Components: components(),
	}
	all := operations()
	for i := range table {
		rt := &table[i]
		op := all[rt.Name]
		for n, path := range rt.Paths {
			if d.Paths[path] == nil {
				d.Paths[path] = map[string]*operation{}
			}
			for _, method := range rt.Methods {
				d.Paths[path][strings.ToLower(method)] = newOperation(rt, &op, method, n)
			}
		}
	}
	out, err := yaml.Marshal(&d)
	if err != nil {
		return nil, fmt.Errorf("encode the OpenAPI document: %w", err)
	}
	return out, nil
}

// newOperation returns one method of the n-th path of a route.
func newOperation(rt *routes.Route, d *description, method string, n int) *operation {
	op := &operation{Summary: d.summary, ID: rt.Name + "_" + strings.ToLower(method),
		Security: []map[string][]string{}, Responses: responses(rt, d)}
	if n > 0 {
		op.ID = fmt.Sprintf("%s_%d", op.ID, n+1)
		op.Description = "The same as " + rt.Paths[0] + "."
	}
	if rt.Scope != "" {
		scope := []string{string(rt.Scope)}
		op.Security = append(op.Security, map[string][]string{"bearer": scope}, map[string][]string{"basic": scope})
		op.Parameters = append(op.Parameters, parameter{Ref: "#/components/parameters/tenant"})
	}
	if strings.Contains(rt.Paths[n], "{name}") {
		op.Parameters = append(op.Parameters, parameter{Name: "name", In: "path", Required: true, Schema: &schema{Type: "string"},
			Description: "A label name. Names that are not ASCII letters, digits and underscores may be escaped as U__..., as Prometheus does."})
	}
	for _, name := range []string{"namespace", "group"} {
		if strings.Contains(rt.Paths[n], "{"+name+"}") {
			op.Parameters = append(op.Parameters, parameter{Name: name, In: "path", Required: true, Schema: &schema{Type: "string"},
				Description: "Name of the " + name + ", as one percent-encoded segment: a slash in it is %2F."})
		}
	}
	if d.body != "" {
		op.Body = &body{Required: true, Content: content(d.body, &schema{Type: "string", Format: "binary"})}
		return op
	}
	if method == http.MethodPost || method == http.MethodPut {
		op.Body = form(d.parameters)
		return op
	}
	for _, p := range d.parameters {
		op.Parameters = append(op.Parameters, parameter{Name: p.name, In: "query", Description: p.text, Required: p.required, Schema: p.schema()})
	}
	return op
}

// form returns parameters as a form, or nil if there are none.
func form(list []argument) *body {
	if len(list) == 0 {
		return nil
	}
	s := &schema{Type: "object", Properties: map[string]*schema{}}
	for _, p := range list {
		s.Properties[p.name] = p.schema()
		s.Properties[p.name].Description = p.text
		if p.required {
			s.Required = append(s.Required, p.name)
		}
	}
	return &body{Content: content("application/x-www-form-urlencoded", s)}
}

// responses returns the responses of a route. All errors of the route have one description.
func responses(rt *routes.Route, d *description) map[string]response {
	success := response{Description: "Success."}
	for _, media := range d.answers {
		if success.Content == nil {
			success.Content = map[string]mediaType{}
		}
		s := &schema{Type: "string"}
		switch media {
		case "application/json":
			s = &schema{Type: "object"}
			if d.envelope {
				s = &schema{Ref: "#/components/schemas/Success"}
			}
		case "application/x-protobuf", protobufDelimited:
			s.Format = "binary"
		}
		success.Content[media] = mediaType{Schema: s}
	}
	code := "200"
	switch {
	case d.accepted:
		code = "202"
	case len(d.answers) == 0:
		code = "204"
	}
	wrong := "#/components/responses/Error"
	if rt.Kind == routes.Write {
		wrong = "#/components/responses/ErrorText"
	}
	return map[string]response{code: success, "default": {Ref: wrong}}
}

// components returns the schemas, responses, parameters and security schemes to which operations refer.
func components() map[string]any {
	return map[string]any{
		"securitySchemes": map[string]any{
			"bearer": map[string]any{"type": "http", "scheme": "bearer",
				"description": "An API key or a JWT. Operations name the scope that it needs."},
			"basic": map[string]any{"type": "http", "scheme": "basic",
				"description": "The tenant as the user, and an API key or a JWT as the password."},
		},
		"parameters": map[string]any{"tenant": parameter{Name: tenant.HeaderOrgID, In: "header", Schema: &schema{Type: "string"},
			Description: "Selects one of the tenants of a credential that is valid for several."}},
		"schemas": map[string]*schema{
			"Success": {Type: "object", Required: []string{"status", "data"}, Properties: map[string]*schema{
				"status": {Type: "string", Enum: []string{"success"}}, "data": {},
				"warnings": {Type: "array", Items: &schema{Type: "string"}}, "infos": {Type: "array", Items: &schema{Type: "string"}},
			}},
			"Error": {Type: "object", Required: []string{"status", "errorType", "error"}, Properties: map[string]*schema{
				"status": {Type: "string", Enum: []string{"error"}}, "errorType": {Type: "string"}, "error": {Type: "string"},
			}},
		},
		"responses": map[string]response{
			"Error": {Description: "An error. 429 and 503 have Retry-After.",
				Content: content("application/json", &schema{Ref: "#/components/schemas/Error"})},
			"ErrorText": {Description: "An error, as a line of text. 429 and 503 have Retry-After.",
				Content: content("text/plain", &schema{Type: "string"})},
		},
	}
}

func content(media string, s *schema) map[string]mediaType {
	return map[string]mediaType{media: {Schema: s}}
}

// Undescribed returns the routes of the table for which operations.go has no description,
// and descriptions without a route, sorted.
func Undescribed(table []routes.Route) (missing, unknown []string) {
	all := operations()
	for i := range table {
		if all[table[i].Name].summary == "" {
			missing = append(missing, table[i].Name)
		}
		delete(all, table[i].Name)
	}
	for name := range all {
		unknown = append(unknown, name)
	}
	slices.Sort(missing)
	slices.Sort(unknown)
	return missing, unknown
}
