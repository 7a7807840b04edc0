package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// TestCommands checks that operators' commands behave like the rest of the admin API: format
// of errors, rejection of unknown parameters, Idempotency-Key, audit.
func TestCommands(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled = true
	p := start(t, cfg, All, nil)
	p.write(p.tenant("acme"))
	for _, c := range []struct {
		method, path string
		code         int
		says         string
	}{
		{"POST", "/flush?wait=maybe", 400, `"wait must be true or false"`},
		{"POST", "/flush?what=x", 400, `unknown query parameter`},
		{"POST", "/flush?instance=ingester-2", 404, "ingester-1"},
		{"POST", "/flush?wait=true&instance=ingester-1", 200, `"status":"done"`},
		{"POST", "/compact?expire=some", 400, `expire must be`},
		{"POST", "/compact/accept-loss?day=x", 400, "is not the number of a UTC day"},
		{"POST", "/compact/accept-loss?day=20000", 404, "no samples of day 20000 are lost"},
		{"GET", "/losses", 200, `{"items":[]}`},
		{"GET", "/erasures/none", 404, "not a deleted tenant"},
		{"POST", "/aside/drop?day=x", 400, "is not the number of a UTC day"},
		{"GET", "/status", 200, `"tenant":"acme","series":1`},
		{"GET", "/ring", 404, "has no ring"},
		{"POST", "/ring/leave", 404, "has no ring"},
	} {
		code, text := p.do(c.method, p.admin+"/admin/v1"+c.path, p.token, nil)
		if code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s", c.path, code, text)
		}
		var body struct{ Code, Message, RequestID string }
		if err := json.Unmarshal([]byte(text), &body); err != nil || code >= 400 && (body.Code == "" || body.Message == "" || body.RequestID == "") {
			t.Errorf("%s: not in the error format: %s", c.path, text)
		}
	}
	packs := func() int { return len(p.app.backend.ingester.Stats().Packs) }
	key := p.tenant("other")
	before := packs()
	for range 2 {
		p.write(key)
		if code, text := p.do("POST", p.admin+"/admin/v1/flush?wait=true", p.token, nil, "Idempotency-Key", "once"); code != 200 || !strings.Contains(text, "done") {
			t.Errorf("flush: %d %s", code, text)
		}
	}
	if n := packs() - before; n != 1 {
		t.Errorf("repeated command with an Idempotency-Key made %d packs, want 1", n)
	}
	if code, text := p.do("GET", p.admin+"/", p.token, nil); code != 200 || !strings.Contains(text, "<td>acme</td>") || !strings.Contains(text, "<h2>Compactor</h2>") {
		t.Errorf("page: %d %s", code, text)
	}
}

// TestLogLosses checks that samples lost with a log are listed by window, each window of a tenant
// once.
func TestLogLosses(t *testing.T) {
	const day, hour = 86_400_000, 3_600_000
	got := logLosses(ingester.Stats{ID: "i", Lost: []ingester.LostStats{
		{Tenant: "a", Day: 1, MinTime: day + hour, MaxTime: day + 4*hour},
		{Tenant: "b", Day: 1, MinTime: 2*day - 1, MaxTime: 2*day - 1},
		{Tenant: "b", Day: 2, MinTime: 2 * day, MaxTime: 2*day + 2*hour - 1},
	}})
	want := []operator.Loss{{Ingester: "i", Tenant: "a", Day: 1, Window: 0}, {Ingester: "i", Tenant: "a", Day: 1, Window: 1},
		{Ingester: "i", Tenant: "a", Day: 1, Window: 2}, {Ingester: "i", Tenant: "b", Day: 1, Window: 11}, {Ingester: "i", Tenant: "b", Day: 2, Window: 0}}
	if !slices.Equal(got, want) {
		t.Errorf("losses %+v, want %+v", got, want)
	}
}

// TestBackendListener checks that the admin listener of a backend serves metrics and health,
// and profiles only with their own token.
func TestBackendListener(t *testing.T) {
	const profiles = "profiles-profiles-profiles-profiles"
	for _, c := range []struct {
		name string
		env  map[string]string
		want map[string]int // without a credential
		with int            // profiles with the token
	}{
		{"without a token", nil, map[string]int{"/healthy": 200, "/metrics": 200, "/": 404, "/admin/v1/flush": 404, "/admin/v1/tenants": 404, "/debug/pprof/": 404}, 404},
		{"with one", map[string]string{"PALLIUM_PPROF_TOKEN": profiles, "PALLIUM_ADMIN_TOKEN": long},
			map[string]int{"/healthy": 200, "/metrics": 200, "/": 404, "/admin/v1/flush": 404, "/debug/pprof/": 401}, 200},
		{"with one in a file", map[string]string{"PALLIUM_PPROF_TOKEN_FILE": writeFile(t, profiles+"\n")}, nil, 200},
	} {
		a := &process{opts: testOptions(Backend, c.env, nil), registry: prometheus.NewRegistry()}
		if err := a.buildSurface(""); err != nil {
			t.Fatal(err)
		}
		h := a.surface.Handler()
		get := func(path string, auth func(*http.Request)) int {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			auth(r)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		for path, want := range c.want {
			if got := get(path, func(*http.Request) {}); got != want {
				t.Errorf("%s: %s: %d, want %d", c.name, path, got, want)
			}
		}
		for how, auth := range map[string]func(*http.Request){
			"Bearer": func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+profiles) },
			"Basic":  func(r *http.Request) { r.SetBasicAuth("anyone", profiles) },
		} {
			if got := get("/debug/pprof/cmdline", auth); got != c.with {
				t.Errorf("%s: profiles by %s: %d, want %d", c.name, how, got, c.with)
			}
		}
		if got := get("/debug/pprof/", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+long) }); got == 200 {
			t.Errorf("%s: profiles are served with the admin token", c.name)
		}
	}
	a := &process{opts: testOptions(Backend, map[string]string{"PALLIUM_PPROF_TOKEN": "short"}, nil), registry: prometheus.NewRegistry()}
	if err := a.buildSurface(""); err == nil || !strings.Contains(err.Error(), "PALLIUM_PPROF_TOKEN") {
		t.Errorf("buildSurface with a short token = %v, want an error", err)
	}
}

// TestPepperSigner checks that only gateways with the same pepper accept each other's
// signatures.
func TestPepperSigner(t *testing.T) {
	of := func(letter string) signer {
		p, err := apikey.NewPepper([]byte(strings.Repeat(letter, 32)))
		if err != nil {
			t.Fatal(err)
		}
		s, err := pepperSigner(p)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sig, err := of("a").Sign("x", "y")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := of("a").Verify(sig, "", "x", "y"); err != nil {
		t.Error(err)
	}
	if _, err := of("b").Verify(sig, "", "x", "y"); err == nil {
		t.Error("a signature with another pepper is accepted")
	}
}
