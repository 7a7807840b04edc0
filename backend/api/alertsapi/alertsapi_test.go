package alertsapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/index"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestAPI checks requests for the configuration of a tenant as mimirtool sends them, requests for secrets, and requests that are
// forwarded.
func TestAPI(t *testing.T) {
	store, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ix, err := index.New(index.Options{Rows: store, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	key, down, changes := false, false, 0
	cpus := 0.
	work := pace.New(func(tenant.ID) float64 { return cpus }, prometheus.NewRegistry())
	handlers := New(Options{Store: ix.Alertmanagers, Pace: work, Limits: func(tenant.ID) limits.Limits {
		l := limits.Default()
		l.MaxAlertmanagerConfigBytes = 100
		return l
	}, Changed: func(tenant.ID) { changes++ },
		Check: func(_ tenant.ID, yaml []byte, s index.AlertmanagerSettings) ([]string, error) {
			if strings.Contains(string(yaml), "secret://slack") && s.Secrets["slack"] == nil {
				return nil, errors.New(`the secret "slack" does not exist`)
			}
			if strings.Contains(string(yaml), "bad") {
				return nil, errors.New("bad field")
			}
			return []string{"old field"}, nil
		},
		Seal: func(_ tenant.ID, _ string, value []byte) ([]byte, error) {
			if !key {
				return nil, ErrNoKey
			}
			return append([]byte("sealed "), value...), nil
		},
		Forward: func(_ context.Context, id tenant.ID, r *alertmanager.Request) (*alertmanager.Response, error) {
			if down {
				return nil, errors.New("no replica")
			}
			body := "[]"
			if r.Method == http.MethodPost {
				body = string(id) + " " + r.Method + " " + r.Path + " " + r.ContentType + " " + string(r.Body)
			}
			return &alertmanager.Response{Code: 200, ContentType: "application/json", Body: []byte(body)}, nil
		},
		ForwardAll: func(context.Context, tenant.ID, *alertmanager.Request) ([]Reply, error) {
			return []Reply{{Response: &alertmanager.Response{Code: 200, Body: []byte(`{"receivers":[]}`)}}}, nil
		}})
	call := func(id tenant.ID, name, method, path, body string) (int, string) {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		if id != "" {
			r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}))
		}
		w := httptest.NewRecorder()
		handlers[name](w, r)
		text, _ := io.ReadAll(w.Result().Body)
		return w.Code, string(text)
	}
	for i, c := range []struct {
		id                       tenant.ID
		name, method, path, body string
		code                     int
		want                     string
	}{
		{"", "alertmanager_config", "GET", "/api/v1/alerts", "", 401, ""},
		{"a", "alertmanager_config", "GET", "/api/v1/alerts", "", 404, "not configured"},
		{"a", "delete_alertmanager_config", "DELETE", "/api/v1/alerts", "", 200, ""},
		{"a", "set_alertmanager_config", "POST", "/api/v1/alerts", "bad", 400, "bad field"},
		{"a", "set_alertmanager_config", "POST", "/api/v1/alerts", strings.Repeat("x", 101), 413, "max_alertmanager_config_bytes"},
		{"a", "alertmanager_config", "GET", "/api/v1/alerts", "", 404, "not configured"},
		{"a", "set_alertmanager_config", "POST", "/api/v1/alerts", "alertmanager_config: x\n", 201, "old field"},
		{"a", "alertmanager_config", "GET", "/api/v1/alerts", "", 200, "alertmanager_config: x\n"},
		{"b", "alertmanager_config", "GET", "/api/v1/alerts", "", 404, ""},
		{"a", "set_alertmanager_secret", "PUT", "/api/v1/alerts/secrets/slack", "v", 501, "PALLIUM_SECRET_KEY"},
		{"a", "set_alertmanager_secret", "PUT", "/api/v1/alerts/secrets/Slack", "v", 400, "lower-case"},
		{"a", "set_alertmanager_secret", "PUT", "/api/v1/alerts/secrets/slack", "", 400, "empty"},
		{"a", "delete_alertmanager_secret", "DELETE", "/api/v1/alerts/secrets/slack", "", 404, "slack"},
		{"a", "alertmanager_push", "POST", "/alertmanager/api/v2/alerts?x=1", "[1]", 200, "a POST /alertmanager/api/v2/alerts?x=1 application/json [1]"},
		{"a", "alertmanager_page", "GET", "/alertmanager", "", 200, "There are no alerts"},
	} {
		if code, text := call(c.id, c.name, c.method, c.path, c.body); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%d %s: %d %q, want %d %q", i, c.name, code, text, c.code, c.want)
		}
	}
	key = true
	if code, text := call("a", "set_alertmanager_secret", "PUT", "/api/v1/alerts/secrets/slack", "hidden"); code != 200 {
		t.Errorf("set a secret: %d %s", code, text)
	}
	if code, text := call("a", "alertmanager_secrets", "GET", "/api/v1/alerts/secrets", ""); code != 200 || !strings.Contains(text, `["slack"]`) ||
		strings.Contains(text, "hidden") {
		t.Errorf("secrets: %d %s", code, text)
	}
	for _, c := range []struct {
		config string
		code   int
	}{{"secret://slack", 409}, {"alertmanager_config: x", 200}} {
		if code, text := call("a", "set_alertmanager_config", "POST", "/api/v1/alerts", c.config); code != 201 {
			t.Errorf("set %q: %d %s", c.config, code, text)
		}
		if code, text := call("a", "delete_alertmanager_secret", "DELETE", "/api/v1/alerts/secrets/slack", ""); code != c.code {
			t.Errorf("delete a secret with the configuration %q: %d %s", c.config, code, text)
		}
	}
	down = true
	if code, text := call("a", "silences", "GET", "/alertmanager/api/v2/silences", ""); code != 503 || text != "the Alertmanager could not be read or written; send the request again\n" {
		t.Errorf("without a replica: %d %s", code, text)
	}
	if changes != 6 {
		t.Errorf("Changed was called %d times, want 6", changes)
	}
	if code, text := call("a", "set_alertmanager_secret", "PUT", "/api/v1/alerts/secrets/slack", "hidden"); code != 200 {
		t.Errorf("set a secret: %d %s", code, text)
	}
	if err := ix.Alertmanagers.SetConfig(t.Context(), "b", "bad"); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"PUT", "DELETE"} { // the configuration is not valid, but not because of the secret
		name := map[string]string{"PUT": "set_alertmanager_secret", "DELETE": "delete_alertmanager_secret"}[method]
		if code, text := call("b", name, method, "/api/v1/alerts/secrets/slack", "hidden"); code != 200 {
			t.Errorf("%s with a configuration that is not valid: %d %s", method, code, text)
		}
	}
	turn, err := work.Begin(t.Context(), "a", pace.Configuration)
	if err != nil {
		t.Fatal(err)
	}
	turn.Total(time.Minute)
	cpus = 0.25
	if code, text := call("a", "set_alertmanager_config", "POST", "/api/v1/alerts", "alertmanager_config: x"); code != 429 ||
		!strings.Contains(text, "alertmanager_cpus") {
		t.Errorf("without CPU time: %d %s", code, text)
	}
	if code, _ := call("a", "delete_alertmanager_secret", "DELETE", "/api/v1/alerts/secrets/slack", ""); code != 429 {
		t.Errorf("without CPU time, a secret that may be used was deleted: %d", code)
	}
	if code, text := call("b", "set_alertmanager_config", "POST", "/api/v1/alerts", "alertmanager_config: x"); code != 201 {
		t.Errorf("another tenant: %d %s", code, text)
	}
}
