// Package rehearsal checks a configuration of a tenant's Alertmanager as far as that is possible without the tenant's
// secrets: it executes the templates for a sample of alerts. The server does so before it stores a configuration, and
// the command line before it is sent.
package rehearsal

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/expand"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/policies/limits"
)

// Bounds returns the limits of a configuration that a tenant may store.
func Bounds(l *limits.Limits) tenantconfig.Limits {
	b := tenantconfig.Defaults()
	b.ConfigBytes, b.Templates = int(l.MaxAlertmanagerConfigBytes), l.MaxAlertmanagerTemplates
	b.TemplateBytes = int(l.MaxAlertmanagerTemplateBytes)
	return b
}

// Functions returns the functions that templates of a tenant have in addition to those of Alertmanager.
func Functions(t tenant.ID) map[string]any {
	return map[string]any{"tenantID": func() string { return string(t) }}
}

// Result is a configuration that was checked.
type Result struct {
	*tenantconfig.Checked
	texts []expand.Text // of fields, as the tenant wrote them
}

// Check checks a configuration without executing its templates. They are rewritten: those of fields in Config, and
// those of files by expand.Parse.
func Check(d tenantconfig.Document, bounds tenantconfig.Limits) (*Result, error) {
	var texts []expand.Text
	checked, err := tenantconfig.Check(d, tenantconfig.Options{Limits: bounds, Rewrite: func(name, text string) (string, error) {
		if file, ok := d.Templates[name]; ok && file == text {
			return text, nil // Parse rewrites files, together
		}
		texts = append(texts, expand.Text{Name: name, Text: text, HTML: strings.HasSuffix(name, ".html")})
		return expand.Rewrite(name, text)
	}})
	if err != nil {
		return nil, err
	}
	return &Result{checked, slices.Clone(texts)}, checkRoutes(checked.Config) // Resolve calls Rewrite again
}

// checkRoutes refuses templates in the labels of routes, which the dispatcher would execute without limits.
func checkRoutes(c *config.Config) (err error) {
	dispatch.NewRoute(c.Route, nil).Walk(func(r *dispatch.Route) {
		for name, value := range r.RouteOpts.Labels {
			if strings.Contains(string(value), "{{") && err == nil {
				err = fmt.Errorf("route: label %q: templates in the labels of routes are not supported: use a text", name)
			}
		}
	})
	return err
}

// Execute executes the templates of fields, and those of the files, for a sample of alerts.
func (r *Result) Execute(files *expand.Files, external *url.URL, t tenant.ID) error {
	return expand.Render(files, external, expand.Defaults(), Functions(t), r.texts)
}
