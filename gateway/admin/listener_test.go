package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
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
