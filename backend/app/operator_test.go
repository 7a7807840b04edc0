package app

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/gateway/admin"
)

// TestCommands: the operator's commands answer as the rest of the admin API does:
// one form of errors, unknown parameters refused, Idempotency-Key, audit.
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
		{"POST", "/flush?what=x", 400, `there is no query parameter`},
		{"POST", "/flush?instance=ingester-2", 404, "ingester-1"},
		{"POST", "/flush?wait=true&instance=ingester-1", 200, `"status":"done"`},
		{"POST", "/compact?expire=some", 400, `expire must be`},
		{"POST", "/compact/accept-loss?day=x", 400, "day must be"},
		{"GET", "/erasures/none", 404, "not a deleted tenant"},
		{"POST", "/aside/drop?day=x", 400, "is not the number of a UTC day"},
		{"GET", "/status", 200, `"tenant":"acme","series":1`},
		{"GET", "/ring", 404, "nothing at this path"},
		{"POST", "/ring/leave", 404, "nothing at this path"},
	} {
		code, text := p.do(c.method, p.admin+"/admin/v1"+c.path, p.token, nil)
		if code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %s", c.path, code, text)
		}
		var body struct{ Code, Message, RequestID string }
		if err := json.Unmarshal([]byte(text), &body); err != nil || code >= 400 && (body.Code == "" || body.Message == "" || body.RequestID == "") {
			t.Errorf("%s: an error of another form: %s", c.path, text)
		}
	}
	packs := func() int { return len(p.app.ingester.Stats().Packs) }
	key := p.tenant("other")
	before := packs()
	for range 2 {
		p.write(key)
		if code, text := p.do("POST", p.admin+"/admin/v1/flush?wait=true", p.token, nil, "Idempotency-Key", "once"); code != 200 || !strings.Contains(text, "done") {
			t.Errorf("%d %s", code, text)
		}
	}
	if n := packs() - before; n != 1 {
		t.Errorf("a command that was repeated with its Idempotency-Key made %d packs", n)
	}
	if code, text := p.do("GET", p.admin+"/", p.token, nil); code != 200 || !strings.Contains(text, "<td>acme</td>") || !strings.Contains(text, "<h2>Compactor</h2>") {
		t.Errorf("page: %d %s", code, text)
	}
}

// TestBackendListener: the admin listener of a backend has metrics and health, and
// profiles with their own token only.
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
		a := &App{opts: testOptions(Backend, c.env, nil), registry: prometheus.NewRegistry()}
		h, err := a.buildAdmin("")
		if err != nil {
			t.Fatal(err)
		}
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
			t.Errorf("%s: profiles with the admin token", c.name)
		}
	}
	a := &App{opts: testOptions(Backend, map[string]string{"PALLIUM_PPROF_TOKEN": "short"}, nil), registry: prometheus.NewRegistry()}
	if _, err := a.buildAdmin(""); err == nil || !strings.Contains(err.Error(), "PALLIUM_PPROF_TOKEN") {
		t.Errorf("a short token: %v", err)
	}
}

// TestForward: a gateway passes commands on to the first backend that it reaches,
// with nothing of the client's, and repeats none that may have been carried out.
func TestForward(t *testing.T) {
	noLeaks(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	asked := 0
	var last *http.Request
	var body []byte
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		last = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("X-Request-Id", "of the backend")
		admin.WriteJSON(w, http.StatusConflict, map[string]string{"code": "conflict"})
	}))
	defer second.Close()
	breaks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer breaks.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ask := func(first, method, path string) *httptest.ResponseRecorder {
		a := &App{opts: testOptions(Gateway, nil, nil)}
		a.cfg.Upstream.URLs = []string{first, second.URL}
		f, err := a.newForwarder(transport)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(method, path, strings.NewReader("a body"))
		r.Header.Set("Authorization", "Bearer "+long)
		r.Header.Set("Cookie", "a=b")
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w
	}
	for _, c := range []struct {
		name, first, method string
		code, asked         int
	}{
		{"first is down", "http://" + closed.Addr().String(), "POST", 409, 1},
		{"first breaks", breaks.URL, "POST", 503, 0},
		{"first breaks, nothing changes", breaks.URL, "GET", 409, 1},
	} {
		asked = 0
		w := ask(c.first, c.method, "/admin/v1/erasures/a%2Fb?wait=true")
		if w.Code != c.code || asked != c.asked || !strings.Contains(w.Body.String(), `"code"`) {
			t.Errorf("%s: %d %s, %d asked", c.name, w.Code, w.Body, asked)
		}
	}
	if last.URL.EscapedPath() != "/internal/operator/erasures/a%2Fb" || last.URL.RawQuery != "wait=true" {
		t.Errorf("passed on as %s", last.URL)
	}
	for _, name := range []string{"Authorization", "Cookie"} {
		if last.Header.Get(name) != "" {
			t.Errorf("%s is passed on", name)
		}
	}
	if len(body) > 0 {
		t.Errorf("the body is passed on: %q", body)
	}
	if got := ask(second.URL, "POST", "/admin/v1/flush").Header().Values("X-Request-Id"); len(got) > 0 {
		t.Errorf("request IDs of the answer: %v", got)
	}
}

// TestPepperSigner: gateways with one pepper believe each other, others nobody.
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
		t.Error("one with another pepper believes it")
	}
}

// TestStatusOfNobody: the page of a gateway says that no backend answers.
func TestStatusOfNobody(t *testing.T) {
	a := &App{opts: testOptions(Gateway, nil, nil)}
	a.opts.Now = time.Now
	a.cfg.Upstream.URLs = []string{"http://127.0.0.1:1"}
	var err error
	if a.toBackend, err = a.newForwarder(&http.Transport{}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	a.page(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "no backend answers") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
