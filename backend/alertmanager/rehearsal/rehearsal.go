// Package rehearsal checks a configuration of a tenant's Alertmanager as far as that is possible without the tenant's
// secrets: it executes the templates for a sample of alerts. The server does so before it stores a configuration, and
// the command line before it is sent.
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

// Result is a configuration that was checked.
type Result struct {
	*tenantconfig.Checked
	texts []expand.Text // of fields, as the tenant wrote them
}

// Check checks a configuration without executing its templates. Those of fields are rewritten in Config; expand.Parse
// rewrites those of files.
func Check(d tenantconfig.Document, bounds tenantconfig.Limits) (*Result, error) {
	f := &fields{rewritten: map[expand.Text]string{}}
	checked, err := tenantconfig.Check(d, tenantconfig.Options{Limits: bounds, Rewrite: f.rewrite})
	if err != nil {
		return nil, err
	}
	return &Result{checked, f.texts}, nil
}

// fields are the texts of a configuration's fields. Most of them appear many times, such as Alertmanager's defaults and
// values of global settings, and are rewritten and executed once.
type fields struct {
	texts     []expand.Text
	rewritten map[expand.Text]string // by text without a name
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

// Execute executes the templates of fields, and those of the files, for a sample of alerts.
func (r *Result) Execute(files *expand.Files, external *url.URL, t tenant.ID) error {
	return expand.Render(files, external, expand.Defaults(), Functions(t), r.texts)
}
