package compiler

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/alertmanager/integrations"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/egress"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/policies/limits"
)

func newCompiler(t *testing.T, keys string) *Compiler {
	t.Helper()
	rules, err := egress.New([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Egress: rules, ExternalURL: func(tenant.ID) string { return "http://pallium/alertmanager" },
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Keys: keys, Logger: slog.New(slog.DiscardHandler),
		Metrics: integrations.NewMetrics(prometheus.NewRegistry()),
		Pace:    pace.New(func(tenant.ID) float64 { return 0 }, prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCompile checks that a compiled configuration with a secret and a template sends the expected notification.
func TestCompile(t *testing.T) {
	var path, body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		path, body = r.URL.Path, string(text)
		_, _ = io.WriteString(w, "ok")
	}))
	defer server.Close()
	c := newCompiler(t, strings.Repeat("k", 32))
	sealed, ok := c.Seal("acme", "hook", []byte(server.URL+"/secret-path"))
	if !ok {
		t.Fatal("there is no key")
	}
	yaml := `template_files: {"my.tmpl": '{{ define "my" }}{{ .CommonLabels.alertname }} of {{ tenantID }}{{ end }}'}
alertmanager_config: |
  templates: [my.tmpl]
  route: {receiver: slack}
  receivers: [{name: slack, slack_configs: [{api_url: "secret://hook", channel: "#a", title: '{{ template "my" . }}'}]}, {name: unused, webhook_configs: [{url: "http://u"}, {url: "http://v", send_resolved: false}]}]
`
	settings := index.AlertmanagerSettings{Exists: true, Config: schema.AlertmanagerConfig{YAML: yaml}, Secrets: map[string][]byte{"hook": sealed}}
	if _, err := c.Check("acme", []byte(yaml), settings); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("acme", settings)
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	if len(compiled.Integrations) != 1 || len(compiled.Integrations["slack"]) != 1 {
		t.Fatalf("integrations: %v", compiled.Integrations)
	}
	if unused := compiled.Unused["unused"]; len(compiled.Unused) != 1 || !slices.Equal(unused, []alertmanager.Kind{{Name: "webhook", SendResolved: true},
		{Name: "webhook", Index: 1}}) {
		t.Errorf("integrations of receivers without a route: %v", compiled.Unused)
	}
	if shown := compiled.Shown.String(); strings.Contains(shown, "secret-path") || !strings.Contains(shown, `{{ template "my" . }}`) {
		t.Errorf("shown: %s", shown)
	}
	ctx := notify.WithGroupKey(notify.WithReceiverName(context.Background(), "slack"), "g")
	ctx = notify.WithGroupLabels(ctx, model.LabelSet{})
	a := &alert.Alert{Alert: model.Alert{Labels: model.LabelSet{"alertname": "Down"}, StartsAt: time.Now(), EndsAt: time.Now().Add(time.Hour)}}
	if _, err := compiled.Integrations["slack"][0].Notify(ctx, a); err != nil {
		t.Fatal(err)
	}
	if path != "/secret-path" || !strings.Contains(body, "Down of acme") {
		t.Errorf("sent to %s: %s", path, body)
	}
	other := settings
	other.Secrets = map[string][]byte{"hook": sealed}
	if _, err := c.Compile("other", other); err == nil {
		t.Error("another tenant's secret was decrypted")
	}
	if len(c.limiters) != 1 {
		t.Errorf("%d limiters, want that of acme", len(c.limiters))
	}
	compiled.Close()
	compiled.Close()
	if len(c.limiters) != 0 {
		t.Errorf("%d limiters after Close", len(c.limiters))
	}
}

// TestErrors checks the errors of invalid configurations and keys, and the fallback.
func TestErrors(t *testing.T) {
	c := newCompiler(t, "")
	if _, ok := c.Seal("acme", "x", []byte("y")); ok {
		t.Error("a secret was encrypted without a key")
	}
	for yaml, want := range map[string]string{
		"alertmanager_config: '{'": "",
		"template_files: {x: '{{ define \"x\" }}{{ nothing }}{{ end }}'}\nalertmanager_config: |\n  route: {receiver: r}\n  receivers: [{name: r}]\n": "nothing",
		"alertmanager_config: |\n  route: {receiver: r}\n  receivers: [{name: r, slack_configs: [{api_url: 'http://x', title: '{{ missing }}'}]}]\n":  "missing",
		"alertmanager_config: |\n  route: {receiver: r, labels: {a: '{{ .Status }}'}}\n  receivers: [{name: r}]\n":                                    "labels of routes",
		"alertmanager_config: |\n  route: {receiver: r}\n  receivers: [{name: r, webhook_configs: [{url: 'secret://no'}]}]\n":                         "secret",
		"alertmanager_config: |\n  route: {receiver: r}\n  receivers: [{name: r, webhook_configs: [{url_file: /etc/passwd}]}]\n":                      "url_file",
	} {
		if _, err := c.Check("acme", []byte(yaml), index.AlertmanagerSettings{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", yaml, err, want)
		}
	}
	compiled, err := c.Compile("acme", index.AlertmanagerSettings{})
	if err != nil || compiled.Config.Route.Receiver == "" {
		t.Errorf("the fallback: %+v, %v", compiled, err)
	}
	if _, err := New(Options{Keys: "short"}); err == nil {
		t.Error("a short key is accepted")
	}
}
