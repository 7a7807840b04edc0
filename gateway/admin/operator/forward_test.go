package operator

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/admin"
)

// TestForward checks that a gateway forwards commands to the first backend that it can reach, without
// the client's credentials and body, and that it never repeats a command that a backend may have
// executed.
func TestForward(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	received := 0
	var last *http.Request
	var body []byte
	second := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received++
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
		f, err := NewForwarder([]string{first, second.URL}, transport, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(method, path, strings.NewReader("a body"))
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Cookie", "a=b")
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w
	}
	for _, c := range []struct {
		name, first, method string
		code, received      int
	}{
		{"first backend is down", "http://" + closed.Addr().String(), "POST", 409, 1},
		{"first backend aborts a command", breaks.URL, "POST", 503, 0},
		{"first backend aborts a read", breaks.URL, "GET", 409, 1},
	} {
		received = 0
		w := ask(c.first, c.method, "/admin/v1/erasures/a%2Fb?wait=true")
		if w.Code != c.code || received != c.received || !strings.Contains(w.Body.String(), `"code"`) {
			t.Errorf("%s: %d %s, second backend received %d requests; want %d, and %d requests", c.name, w.Code, w.Body, received,
				c.code, c.received)
		}
	}
	if last.URL.EscapedPath() != "/internal/operator/erasures/a%2Fb" || last.URL.RawQuery != "wait=true" {
		t.Errorf("forwarded as %s", last.URL)
	}
	for _, name := range []string{"Authorization", "Cookie"} {
		if last.Header.Get(name) != "" {
			t.Errorf("header %s was forwarded", name)
		}
	}
	if len(body) > 0 {
		t.Errorf("the body was forwarded: %q", body)
	}
	if got := ask(second.URL, "POST", "/admin/v1/flush").Header().Values("X-Request-Id"); len(got) > 0 {
		t.Errorf("request IDs of the response = %v, want none of the backend", got)
	}
}

// TestPageWithoutBackend checks that the page of a gateway shows that no backend can be
// reached.
func TestPageWithoutBackend(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	f, err := NewForwarder([]string{"http://127.0.0.1:1"}, &http.Transport{}, logger)
	if err != nil {
		t.Fatal(err)
	}
	page, err := NewPage(PageOptions{Version: "1.2.3", Role: "gateway", Forwarder: f, Now: time.Now, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	page.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "no backend could be reached") {
		t.Errorf("the page: %d %s", w.Code, w.Body)
	}
}
