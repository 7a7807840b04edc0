package rehearsal

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/alertmanager/expand"
	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestRehearsal checks which invalid configurations Check rejects, and which Execute rejects.
func TestRehearsal(t *testing.T) {
	def := limits.Default()
	const valid = "route: {receiver: r}\nreceivers: [{name: r, slack_configs: [{api_url: 'http://x', title: 'of {{ tenantID }}'}, {api_url: 'http://y'}]}]\n"
	for _, c := range []struct {
		what, config   string
		files          map[string]string
		check, execute string // errors
	}{
		{"valid", valid, map[string]string{"f.tmpl": `{{ define "f" }}{{ .Status }}{{ end }}`}, "", ""},
		{"field", strings.ReplaceAll(valid, "tenantID", "missing"), nil, "", "missing"},
		{"file", valid, map[string]string{"f.tmpl": `{{ define "f" }}{{ missing }}{{ end }}`}, "", "missing"},
		{"route", "route: {receiver: r, labels: {a: '{{ .Status }}'}}\nreceivers: [{name: r}]\n", nil, "labels of routes", ""},
		{"size", valid + "# " + strings.Repeat("x", int(def.MaxAlertmanagerConfigBytes)), nil, "bytes", ""},
	} {
		d := tenantconfig.Document{Config: c.config, Templates: c.files}
		r, err := Check(d, Bounds(&def))
		if c.check != "" {
			if err == nil || !strings.Contains(err.Error(), c.check) {
				t.Errorf("%s: %v, want %q", c.what, err, c.check)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for i, text := range r.texts {
			if slices.ContainsFunc(r.texts[:i], func(t expand.Text) bool { return t.Text == text.Text && t.HTML == text.HTML }) {
				t.Errorf("%s: %s is executed twice", c.what, text.Name)
			}
		}
		before := len(r.texts)
		if _, err := r.Resolve(nil); err != nil || len(r.texts) != before {
			t.Errorf("%s: after Resolve %d texts are executed, want %d: %v", c.what, len(r.texts), before, err)
		}
		files, err := expand.Parse(r.Templates)
		if err == nil {
			err = r.Execute(files, &url.URL{}, "acme")
		}
		if (err == nil) != (c.execute == "") || err != nil && !strings.Contains(err.Error(), c.execute) {
			t.Errorf("%s: %v, want %q", c.what, err, c.execute)
		}
	}
}
