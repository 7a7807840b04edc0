package expand

import (
	"strings"
	"testing"
)

// TestRender checks which errors Render finds and which it ignores.
func TestRender(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		text Text
		want string // "" if the text is accepted
	}{
		"nothing":                          {},
		"a title":                          {text: Text{Text: "{{ template \"slack.default.title\" . }}"}},
		"an email":                         {text: Text{Text: "{{ template \"email.default.html\" . }}", HTML: true}},
		"a missing label":                  {text: Text{Text: "{{ .CommonLabels.none }}{{ (index .Alerts 9).Labels }}"}},
		"a template for a list":            {file: "{{ define \"x\" }}{{ range . }}{{ .Labels }}{{ end }}{{ end }}"},
		"a link of Slack":                  {file: "{{ define \"x\" }}<{{ .ExternalURL }}|\"a>{{ end }}"},
		"a function that is given":         {text: Text{Text: "{{ tenantID }}"}},
		"an unknown function":              {text: Text{Text: "{{ nothing }}"}, want: "field: line 1: the function nothing is not defined"},
		"an unknown function in a file":    {file: "\n{{ nothing }}", want: "f: line 2: the function nothing is not defined"},
		"no end":                           {text: Text{Text: "{{ if . }}"}, want: "field: 1: unexpected EOF"},
		"an attribute without an end":      {text: Text{Text: "<a href='{{ .Status }}", HTML: true}, want: "ends in a non-text context"},
		"an attribute in a text":           {text: Text{Text: "<a href='{{ .Status }}"}},
		"different ends":                   {text: Text{Text: "<a {{ if .Alerts }}href='{{ end }}", HTML: true}, want: "different contexts"},
		"a limit":                          {text: Text{Text: "{{ range 1000000000 }}{{ end }}"}, want: "field: template"},
		"a limit in a file":                {file: "{{ define \"x\" }}{{ range 1000000000 }}{{ end }}{{ end }}", want: "template \"x\": template: f"},
		"a redefined default with a limit": {file: "{{ define \"__subject\" }}{{ range 1000000000 }}{{ end }}{{ end }}", want: "template \"__subject\""},
		"a complicated text":               {file: "{{ define \"x\" }}" + strings.Repeat("{{ . }}", 5000) + "{{ end }}", text: Text{Text: strings.Repeat("{{ template \"x\" . }}", 50), HTML: true}, want: "too complicated"},
	} {
		f, err := Parse(map[string]string{"f": c.file})
		if err == nil {
			c.text.Name = "field"
			err = Render(f, external(t), Defaults(), map[string]any{"tenantID": func() string { return "team" }}, []Text{c.text})
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "| _bound")) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}
