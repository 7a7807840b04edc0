package expand

import (
	"context"
	"fmt"
	htmltemplate "html/template"
	"net/url"
	"slices"
	"strings"
	"testing"
	texttemplate "text/template"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/common/model"
)

// limitless returns limits that no template of the tests reaches.
func limitless() Limits {
	return Limits{Steps: 1 << 40, Bytes: 1 << 40, Depth: 1 << 30, Time: time.Hour}
}

func external(t testing.TB) *url.URL {
	u, err := url.Parse("https://alerts.example.com/am")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// dataOf returns the data of a notification for some firing and resolved alerts.
func dataOf(t testing.TB, firing, resolved int) *template.Data {
	plain, err := template.New()
	if err != nil {
		t.Fatal(err)
	}
	plain.ExternalURL = external(t)
	var alerts []*alert.Alert
	for i := range firing + resolved {
		start := time.Date(2026, 3, 4, 5, 6, i, 7, time.UTC)
		a := &alert.Alert{Alert: model.Alert{
			Labels: model.LabelSet{
				"alertname": "Disk <full> & \"hot\"", "severity": []model.LabelValue{"critical", "warning", "info"}[i%3],
				"instance": model.LabelValue(fmt.Sprintf("host-%d:9100", i)), "ünï": "wörld 世界",
			},
			Annotations:  model.LabelSet{"summary": "It's 95% full", "runbook": "https://wiki/x?a=1&b=2#c", "description": "line\none"},
			StartsAt:     start,
			GeneratorURL: "http://prom/graph?g0.expr=up%3D%3D0&x='1'",
		}}
		if a.EndsAt = time.Now().Add(time.Hour); i >= firing {
			a.EndsAt = start.Add(time.Minute)
		}
		alerts = append(alerts, a)
	}
	return plain.Data("team/ops", model.LabelSet{"alertname": "Disk <full> & \"hot\""}, model.LabelSet{"team": "ops"}, "", alerts...)
}

// unmodified returns Alertmanager's own templates together with the given files, as Alertmanager reads them from a
// directory.
func unmodified(t testing.TB, files map[string]string) (*template.Template, *texttemplate.Template) {
	var text *texttemplate.Template
	var html *htmltemplate.Template
	plain, err := template.FromGlobs(nil, func(tt *texttemplate.Template, ht *htmltemplate.Template) { text, html = tt, ht })
	if err != nil {
		t.Fatal(err)
	}
	plain.ExternalURL = external(t)
	for name, content := range files {
		if _, err := text.New(name).Parse(content); err != nil {
			t.Fatal(err)
		}
		if _, err := html.New(name).Parse(content); err != nil {
			t.Fatal(err)
		}
	}
	return plain, text
}

// newTemplates returns an executor of the templates in the given files.
func newTemplates(t testing.TB, files map[string]string, l Limits) *Templates {
	f, err := Parse(files)
	if err != nil {
		t.Fatal(err)
	}
	out, err := f.New(external(t), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	out.Begin(context.Background())
	return out
}

// same checks that the rewritten text has the same result as the text with Alertmanager's unmodified package.
func same(t *testing.T, plain *template.Template, bounded *Templates, text string, data *template.Data) {
	t.Helper()
	rewritten, err := Rewrite("field", text)
	if err != nil {
		t.Errorf("%q: Rewrite: %v", text, err)
		return
	}
	bounded.Begin(context.Background())
	for kind, execute := range map[string]func(*template.Template, string) (string, error){
		"text": func(tt *template.Template, s string) (string, error) { return tt.ExecuteTextString(s, data) },
		"html": func(tt *template.Template, s string) (string, error) { return tt.ExecuteHTMLString(s, data) },
	} {
		want, wantErr := execute(plain, text)
		got, gotErr := execute(bounded.Template(), rewritten)
		if (wantErr == nil) != (gotErr == nil) || wantErr == nil && got != want {
			t.Errorf("%s of %q, rewritten as\n%s\ngot  %q, %v\nwant %q, %v", kind, text, rewritten, got, gotErr, want, wantErr)
		}
	}
	if err := bounded.Err(); err != nil {
		t.Errorf("%q: %v", text, err)
	}
}

// TestEqualDefaults checks that each of Alertmanager's own templates has an unchanged result, for several groups of alerts.
func TestEqualDefaults(t *testing.T) {
	plain, text := unmodified(t, nil)
	bounded := newTemplates(t, nil, Defaults())
	names := 0
	for _, tmpl := range text.Templates() {
		if tmpl.Name() == "" {
			continue
		}
		names++
		for _, n := range [][2]int{{0, 0}, {1, 0}, {0, 1}, {2, 1}, {40, 7}} {
			data := dataOf(t, n[0], n[1])
			arg := "."
			if strings.HasPrefix(tmpl.Name(), "__text_alert_list") {
				arg = ".Alerts.Firing"
			}
			same(t, plain, bounded, fmt.Sprintf("{{ template %q %s }}", tmpl.Name(), arg), data)
		}
	}
	if names < 60 {
		t.Errorf("%d templates of Alertmanager, want at least 60", names)
	}
}

// TestEqual checks that templates of all kinds have unchanged results.
func TestEqual(t *testing.T) {
	files := map[string]string{"own.tmpl": `
{{ define "own.list" }}{{ range . }}[{{ .Labels.instance }}]{{ else }}none{{ end }}{{ end }}
{{ define "own.blank" }}  {{ end }}
{{ define "own.attr" }}x={{ . }}{{ end }}
{{ define "__subject" }}redefined {{ .Status }}{{ end }}
{{- define "own.nested" }}{{ template "own.list" .Alerts.Firing }}/{{ template "own.blank" }}/{{ end }}
`}
	plain, _ := unmodified(t, files)
	bounded := newTemplates(t, files, limitless())
	for _, text := range equalTexts() {
		for _, data := range []*template.Data{dataOf(t, 0, 0), dataOf(t, 2, 1)} {
			same(t, plain, bounded, text, data)
		}
	}
	if n := len(equalTexts()); n < 60 {
		t.Errorf("%d templates, want at least 60", n)
	}
}

func equalTexts() []string {
	return slices.Concat([]string{
		"", "plain", "{{ .Status }}", "{{ .Receiver | urlquery }}", "{{ urlquery .Receiver \"a b\" }}", "{{ html .Status }}",
		"{{ .CommonLabels }}", "{{ .Alerts }}", "{{ .Missing }}", "{{ .CommonLabels.missing }}", "{{ index .CommonLabels \"missing\" }}",
		"{{ . }}", "{{ $ }}", "{{ nil }}", "{{ true }}{{ 1 }}{{ 1.5 }}{{ 'x' }}{{ 0x10 }}{{ 2i }}{{ \"s\" }}{{ `raw}}\n` }}",
		"a {{- .Status -}} b", "{{/* comment */}}x{{- /* comment */ -}} y", "{ {{- .Status }}", "{ {{- /* c */ -}} {x", "a{ {{- if true }}b{ {{- else }}c{ {{- end }}d",
		"{{ range .Alerts }}{ {{- end }}", "$ {{- /* */ -}} {x} ${y} $${{ \"${z}\" }}", "`${{ .Status }}`", "}} {{ .Status }}}",
		"{{ range .Alerts }}{{ .Labels.instance }},{{ end }}", "{{ range $i, $a := .Alerts }}{{ $i }}{{ $a.Status }}{{ end }}",
		"{{ range 3 }}{{ . }}{{ end }}", "{{ range $i := 3 }}{{ $i }}{{ end }}", "{{ range 0 }}x{{ else }}none{{ end }}", "{{ range .Missing }}x{{ else }}y{{ end }}",
		"{{ range .CommonLabels }}{{ . }}{{ end }}", "{{ range $k, $v := .CommonLabels }}{{ $k }}={{ $v }};{{ end }}", "{{ range \"text\" }}{{ end }}",
		"{{ range .Alerts }}{{ if eq .Status \"resolved\" }}{{ continue }}{{ end }}{{ .Labels.instance }}{{ break }}{{ end }}",
		"{{ with .Alerts.Firing }}{{ len . }}{{ else with .Alerts.Resolved }}{{ . }}{{ else }}none{{ end }}",
		"{{ if false }}a{{ else if .Alerts }}b{{ else if true }}c{{ else }}d{{ end }}", "{{ with $x := .Status }}{{ $x }}{{ . }}{{ end }}",
		"{{ $x := 1 }}{{ range 3 }}{{ $x = . }}{{ end }}{{ $x }}", "{{ $x := .Alerts }}{{ range $i, $y := $x }}{{ $i }}{{ end }}",
		"{{ template \"own.list\" .Alerts }}", "{{ template \"own.blank\" }}", "{{ template \"own.nested\" . }}", "{{ template \"__subject\" . }}", "{{ template \"missing\" . }}",
		"{{ template \"own.tmpl\" . }}", "{{ template \"slack.default.title\" . }}",
		"{{ (index .Alerts 0).Labels.instance }}", "{{ (.Alerts.Firing | len) }}", "{{ len (slice .Status 1 3) }}", "{{ slice (list 1 2 3 4) 1 3 }}",
	}, functionTexts(), htmlTexts())
}

func functionTexts() []string {
	return []string{
		"{{ printf \"%-10s|%5d|%q|%x|%v|%T|%+v|%#v|%%\" .Status 42 .Status .Status .CommonLabels .Alerts .CommonLabels .CommonLabels }}",
		"{{ printf \"%[2]*[1]d %*d %d\" 1 5 }}", "{{ printf \"%!\" }}{{ printf \"%d\" \"x\" }}{{ printf \"%.3f\" 1.5 }}", "{{ .Status | printf \"%s %s\" \"a\" }}",
		"{{ print 1 2 \"a\" \"b\" 3 }}{{ println .Status }}{{ print }}{{ print nil }}", "{{ js .CommonAnnotations.summary }}{{ html \"<\" 1 }}{{ urlquery \"a b\" 2 }}",
		"{{ .Status | toUpper | toLower | title }}", "{{ trimSpace \"  x \" }}", "{{ .CommonLabels.Values | join \", \" }}", "{{ join \",\" (stringSlice \"a\" \"b\") }}",
		"{{ match \"^f.*g$\" .Status }}", "{{ match \"(\" .Status }}", "{{ reReplaceAll \"(.)i\" \"<$1>\" .Status }}", "{{ reReplaceAll \"x*\" \"-\" \"abc\" }}",
		"{{ reReplaceAll \"[\" \"\" .Status }}", "{{ safeHtml \"<b>\" }}{{ safeUrl \"javascript:x\" }}", "{{ urlUnescape \"a%20b\" }}", "{{ urlUnescape \"%zz\" }}",
		"{{ routeLabels \"team\" }}{{ routeLabels \"none\" }}", "{{ range .Alerts }}{{ .StartsAt | date \"2006 Jan\" }}{{ .StartsAt | tz \"Europe/Paris\" }}{{ end }}",
		"{{ tz \"UTC\" (index .Alerts 0).StartsAt }}", "{{ range .Alerts }}{{ tz \"../x\" .StartsAt }}{{ end }}", "{{ range .Alerts }}{{ tz \"/etc/passwd\" .StartsAt }}{{ end }}",
		"{{ range .Alerts }}{{ .StartsAt.Format \"Jan 2\" }}{{ .StartsAt.Unix }}{{ (.StartsAt.AddDate 0 0 1).Weekday }}{{ .EndsAt.Sub .StartsAt | printf \"%T\" }}{{ end }}",
		"{{ range .Alerts }}{{ .StartsAt.Location }}{{ .StartsAt.Round 1000000000 }}{{ .StartsAt.MarshalText }}{{ end }}", "{{ toDate \"2006\" \"x\" }}{{ toDate \"2006\" \"2026\" }}",
		"{{ mustToDate \"2006\" \"x\" }}", "{{ humanizeDuration 3600 }}{{ humanizeDuration \"1.5\" }}", "{{ humanizeDuration .Alerts }}", "{{ toJson .Alerts }}{{ toJson . }}{{ toJson nil }}",
		"{{ toJson (dict \"a\" (list 1 nil \"<&\u2028>\") \"b\" .CommonLabels) }}", "{{ base64encode .Receiver }}{{ base64decode \"YQ==\" }}", "{{ base64decode \"!\" }}",
		"{{ list }}{{ list 1 2 }}{{ append (list 1) 2 \"x\" }}{{ append list 1 }}", "{{ $d := dict \"a\" 1 }}{{ $d.a }}{{ $d }}", "{{ dict 1 2 }}", "{{ dict \"a\" }}", "{{ append .Alerts 1 }}",
		"{{ .GroupLabels.SortedPairs.Values.Join \"+\" }}", "{{ .CommonLabels.SortedPairs }}{{ .CommonLabels.Remove .GroupLabels.Names }}", "{{ (.CommonLabels.Remove (stringSlice \"severity\")).Names }}",
		"{{ and .Alerts .Status }}{{ or .Missing .Status }}{{ not .Alerts }}{{ and 1 .Alerts.Firing }}", "{{ eq .Status \"firing\" \"resolved\" }}{{ lt 1 2 }}{{ ge .Status \"a\" }}", "{{ eq .Alerts .Alerts }}",
		"{{ call .Status }}", "{{ $x := .Alerts.Firing }}{{ len $x }}{{ lt (now.Sub now).Hours 1.0 }}", "{{ .Status.Foo }}", "{{ .Alerts.Firing 1 }}", "{{ (.CommonLabels).severity }}{{ $.CommonLabels.severity }}",
		"{{ \", \" | .GroupLabels.Values.Join }}{{ .Status | .GroupLabels.Values.Join }}", "{{ unknown . }}",
	}
}

// htmlTexts returns texts with actions in each context that html/template distinguishes.
func htmlTexts() []string {
	var out []string
	for _, context := range []string{
		"<a href=\"%s\">", "<a href='/x?q=%s#f'>", "<a href=%s>", "<a href=\"/{{ .Status }}?a=%s\">", "<a title=\"%s\">", "<a title=%s b>", "<a %s>", "<a %s=x>", "<a onclick=\"f(%s)\">",
		"<script>var x = %s;</script>", "<script>var x = \"%s\";</script>", "<script>var x = '%s';</script>", "<script>`%s`</script>", "<script>/%s/.test(x)</script>",
		"<script>// %s\n</script>", "<style>a { color: %s }</style>", "<style>a { background: url('%s') }</style>", "<p style=\"width: %s\">", "<!-- %s -->", "<title>%s</title>",
		"<textarea>%s</textarea>", "<img srcset=\"%s\">", "<meta http-equiv=\"refresh\" content=\"0;url=%s\">", "<scr{{/* */}}ipt>%s</script>", "<script>x = {\"a\": %s, b: {}}</script>", "<a href=\"%s",
	} {
		for _, action := range []string{
			"{{ .CommonAnnotations.summary }}", "{{ .CommonLabels }}", "{{ .Receiver | urlquery }}", "{{ html .Status }}", "{{ .Status | html }}", "{{ safeHtml \"<b>\" }}", "{{ safeUrl \"javascript:x\" }}", "{{ len .Alerts }}",
			"{{ range .Alerts }}{{ .Labels.instance }}{{ end }}", "{{ range .Alerts }}{{ break }}{{ end }}", "{{ if .Alerts }}a{{ else }}{{ .Status }}{{ end }}", "{{ $x := 1 }}{{ $x }}", "{{ template \"own.attr\" .Status }}",
			"{{ with .Status }}{{ . }}{{ end }}", "{{ template \"own.blank\" }}",
		} {
			out = append(out, fmt.Sprintf(context, action))
		}
	}
	return out
}
