package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestListener checks that the listener responds with the start's progress until Serve is
// called, then with the surface, and that Close ends it.
func TestListener(t *testing.T) {
	ad, err := Listen(ListenerOptions{Address: "127.0.0.1:0", Hosts: []string{"operator.example"}, Doing: func() string { return "starting: thinking" },
		Logger: slog.New(slog.DiscardHandler), Context: context.Background()})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	get := func(path, host, token string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ad.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if token != "" {
			req.SetBasicAuth("anyone", token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if again := resp.Header.Get("Retry-After") != ""; again != (resp.StatusCode == http.StatusServiceUnavailable) {
			t.Errorf("%s: status %d, has Retry-After: %v", path, resp.StatusCode, again)
		}
		return resp.StatusCode, string(body)
	}
	type want struct {
		path, host, token string
		code              int
		says              string
	}
	check := func(list []want) {
		t.Helper()
		for _, w := range list {
			if code, text := get(w.path, w.host, w.token); code != w.code || !strings.Contains(text, w.says) {
				t.Errorf("%s of %q with %q: %d %s", w.path, w.host, w.token, code, text)
			}
		}
	}
	early := prometheus.NewGauge(prometheus.GaugeOpts{Name: "early"})
	ad.Early().MustRegister(early)
	check([]want{
		{"/ready", "localhost", "", 503, "starting: thinking"}, {"/healthy", "localhost", "", 200, "healthy"}, {"/metrics", "localhost", "", 200, "early 0"},
		{Root + "/tenants", "localhost", "", 503, "thinking"}, {"/", "localhost", "", 503, "thinking"}, {"/healthy", "evil.example", "", 421, ""},
		{"/healthy", "operator.example", "", 200, ""},
	})
	const token = "0123456789abcdef0123456789abcdef"
	var impaired, notReady error
	ad.Serve(Surface{Metrics: prometheus.NewRegistry(), Ready: func(context.Context) (error, error) { return impaired, notReady },
		Token: token, TokenName: "test token",
		Page: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the page") }),
		API:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the API") })})
	check([]want{
		{"/ready", "localhost", "", 200, "ready"}, {"/metrics", "localhost", "", 200, "promhttp"}, {Root + "/tenants", "localhost", "", 200, "the API"},
		{"/", "localhost", "", 401, "authentication required: send the test token"}, {"/", "localhost", "wrong", 401, ""}, {"/", "localhost", token, 200, "the page"},
		{"/debug/pprof/cmdline", "localhost", "", 401, ""}, {"/debug/pprof/cmdline", "localhost", token, 200, ""},
	})
	impaired = errors.New("writes fail")
	check([]want{{"/ready", "localhost", "", 200, "ready\nwrites fail\n"}})
	notReady = errors.New("leaving")
	check([]want{{"/ready", "localhost", "", 503, "leaving"}})
	ad.Serve(Surface{Metrics: prometheus.NewRegistry()})
	check([]want{{"/", "localhost", token, 404, "admin listener of a gateway"}, {"/debug/pprof/cmdline", "localhost", token, 404, ""}, {Root + "/tenants", "localhost", token, 404, ""}})
	client.CloseIdleConnections()
	if err := ad.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ad.Failed(); !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Failed() = %v, want http.ErrServerClosed", err)
	}
}

// TestButton checks that a button of the page sends a request to the admin API, and that only the
// page itself can cause this request.
func TestButton(t *testing.T) {
	const token = "a-token-of-an-operator-1234567890"
	var asked []string
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization"))
		switch r.URL.Query().Get("id") {
		case "gone":
			http.Error(w, "gone", http.StatusNotFound)
		case "lost":
			http.Error(w, "not all processes", http.StatusServiceUnavailable)
		}
	})
	h := Surface{Metrics: prometheus.NewRegistry(), Token: token, Page: http.NotFoundHandler(), API: api}.Handler()
	for _, tt := range []struct {
		method, path, token, origin string
		code                        int
		says                        string
		asks                        bool
	}{
		{"POST", "/queries/end?id=1", token, "http://localhost", 303, "", true},
		{"POST", "/queries/end?id=gone", token, "http://localhost", 303, "", true},
		{"POST", "/queries/end?id=lost", token, "http://localhost", 503, "not all processes", true},
		{"POST", "/queries/end?id=1", token, "http://other.example", 403, "another site", false},
		{"POST", "/queries/end?id=1", "wrong", "http://localhost", 401, "", false},
		{"POST", "/queries/end?id=1", "", "http://localhost", 401, "", false},
		{"GET", "/queries/end?id=1", token, "http://localhost", 405, "", false},
		{"POST", "/flush", token, "http://localhost", 404, "", false},
	} {
		asked = nil
		r := httptest.NewRequest(tt.method, "http://localhost"+tt.path, strings.NewReader("x=y"))
		r.Header.Set("Origin", tt.origin)
		if tt.token != "" {
			r.SetBasicAuth("anyone", tt.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.says) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
		if want := "POST http://localhost" + Root + tt.path + " Bearer " + token; tt.asks && (len(asked) != 1 || asked[0] != want) || !tt.asks && len(asked) > 0 {
			t.Errorf("%s %s: the API was asked %q", tt.method, tt.path, asked)
		}
	}
}
