// Package rehearsal checks a configuration of a tenant's Alertmanager without the tenant's secrets, and executes its
// templates for a sample of alerts. The server uses it before it stores a configuration, and the command line to check files
// without a server.
package rehearsal

import (
	"net/url"
	"strings"

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

// Result is a checked configuration.
type Result struct {
	*tenantconfig.Checked
	texts []expand.Text // texts of fields, as the tenant wrote them
}

// Check checks a configuration without executing its templates. It rewrites the templates of fields in Config. Templates of
// files are rewritten by expand.Parse.
func Check(d tenantconfig.Document, bounds tenantconfig.Limits) (*Result, error) {
	f := &fields{rewritten: map[expand.Text]string{}}
	checked, err := tenantconfig.Check(d, tenantconfig.Options{Limits: bounds, Rewrite: f.rewrite})
	if err != nil {
		return nil, err
	}
	return &Result{checked, f.texts}, nil
}

// fields collects the texts of a configuration's fields. Equal texts, such as Alertmanager's defaults and values of global
// settings, are rewritten and executed once.
type fields struct {
	texts     []expand.Text
	rewritten map[expand.Text]string // by text with an empty name
}

func (f *fields) rewrite(path, text string) (string, error) {
	key := expand.Text{Text: text, HTML: strings.HasSuffix(path, ".html")}
	if out, ok := f.rewritten[key]; ok {
		return out, nil
	}
	out, err := expand.Rewrite(path, text)
	if err != nil {
		return "", err
	}
	f.texts = append(f.texts, expand.Text{Name: path, Text: text, HTML: key.HTML})
	f.rewritten[key] = out
	return out, nil
}

// Execute executes the templates of fields and of files for a sample of alerts.
func (r *Result) Execute(files *expand.Files, external *url.URL, t tenant.ID) error {
	return expand.Render(files, external, expand.Defaults(), Functions(t), r.texts)
}
