package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func anyPage() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") })
}

func TestRequireHost(t *testing.T) {
	h := RequireHost([]string{"pallium.example.com", "Gateway-1"}, anyPage())
	for host, status := range map[string]int{
		"127.0.0.1:9010": 200, "127.0.0.1": 200, "10.1.2.3:9010": 200, "[::1]:9010": 200, "[2001:db8::1]": 200,
		"[fe80::1%25eth0]:9010": 200, "localhost": 200, "LocalHost.:9010": 200, "": 200,
		"pallium.example.com:9010": 200, "PALLIUM.example.com.": 200, "gateway-1:9010": 200,
		"evil.example": 421, "evil.example:9010": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"x.pallium.example.com": 421, "evil.example@localhost": 421, "localhost, evil.example": 421, "[evil.example]": 421,
		"gateway-2:9010": 421, ":9010": 421, "127.1": 421,
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != status {
			t.Errorf("host %q: status %d, want %d", host, w.Code, status)
		}
		if status == 421 && !strings.Contains(w.Body.String(), "admin_hosts") {
			t.Errorf("host %q: the error does not name admin_hosts: %s", host, w.Body)
		}
		for name, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
			"Content-Security-Policy": "frame-ancestors 'none'"} {
			if !strings.Contains(w.Header().Get(name), value) {
				t.Errorf("host %q: header %s = %q", host, name, w.Header().Get(name))
			}
		}
	}
	for name, good := range map[string]bool{"pallium": true, "a.example": true, "": false, "http://a": false, "a:9010": false, "*.example": false, "a/b": false} {
		if err := CheckHosts([]string{"ok", name}); (err == nil) != good {
			t.Errorf("CheckHosts(%q) = %v", name, err)
		}
	}
}

func TestRejectCrossSite(t *testing.T) {
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
	}{
		{"curl", nil, 200},
		{"typed into the address bar", []string{"Sec-Fetch-Site: none"}, 200},
		{"a link of the page", []string{"Sec-Fetch-Site: same-origin"}, 200},
		{"own form", []string{"Sec-Fetch-Site: same-origin", "Origin: http://127.0.0.1:9010"}, 200},
		{"own form through a TLS proxy", []string{"Origin: https://127.0.0.1:9010"}, 200},
		{"another site", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"another port", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"form of another site", []string{"Origin: https://evil.example"}, 403},
		{"form of another port", []string{"Origin: http://127.0.0.1:3000"}, 403},
		{"sandboxed frame", []string{"Origin: null"}, 403},
		{"an origin that is no URL", []string{"Origin: 127.0.0.1:9010"}, 403},
		{"two origins", []string{"Origin: http://127.0.0.1:9010", "Origin: https://evil.example"}, 403},
		{"two sites", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"}, 403},
	} {
		for _, method := range []string{"GET", "POST"} {
			r := httptest.NewRequest(method, "/debug/pprof/profile", nil)
			r.Host = "127.0.0.1:9010"
			for _, h := range tt.headers {
				name, v, _ := strings.Cut(h, ": ")
				r.Header.Add(name, v)
			}
			w := httptest.NewRecorder()
			RejectCrossSite(anyPage()).ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("%s, %s: status %d, want %d", tt.name, method, w.Code, tt.status)
			}
		}
	}
}
