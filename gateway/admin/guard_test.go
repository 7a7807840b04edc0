package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestLogin(t *testing.T) {
	s := newServer(t)
	from := func(addr string, authorization ...string) answer {
		r := httptest.NewRequest("GET", "/admin/v1/nowhere", nil)
		r.RemoteAddr = addr
		for _, v := range authorization {
			r.Header.Add("Authorization", v)
		}
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		return answer{w.Code, w.Header(), w.Body.String()}
	}
	good := "Bearer " + token
	if a := from("10.0.0.1:1", good); a.status != 404 {
		t.Errorf("right token: %d", a.status)
	}
	if a := from("10.0.0.1:1", "bearer "+token); a.status != 404 {
		t.Errorf("scheme in lower case: %d", a.status)
	}
	for i, bad := range [][]string{nil, {""}, {token}, {"Bearer"}, {"Bearer "}, {"Bearer " + token + " "}, {"Basic " + token}, {good, good}, {"Bearer " + token[:31]}, {"Bearer x"}} {
		a := from("10.0.0.2:1", bad...)
		if a.status != 401 || a.header.Get("WWW-Authenticate") == "" || a.text("code") != "unauthorized" {
			t.Errorf("wrong token %d: %d %s", i, a.status, a.body)
		}
	}
	// The network has used up its failures. The right token is still accepted, because
	// guesses of others in the network must not delay a revocation.
	if a := from("10.0.0.3:1", good); a.status != 404 {
		t.Errorf("right token after its network's failures: %d", a.status)
	}
	a := from("10.0.0.3:1", "Bearer wrong")
	if a.status != 429 || a.header.Get("Retry-After") != "6" {
		t.Errorf("after ten failures: %d %v", a.status, a.header)
	}
	if a := from("10.0.1.1:1", "Bearer wrong"); a.status != 401 {
		t.Errorf("from another network: %d", a.status)
	}
	s.now = s.now.Add(loginRefill)
	if a := from("10.0.0.3:1", "Bearer wrong"); a.status != 401 {
		t.Errorf("later: %d", a.status)
	}
	// Networks beyond maxNetworks share one bucket, so that memory stays bounded.
	g := newGuard(token, func() time.Time { return s.now }, nil, nil)
	for i := range maxNetworks + 100 {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.1:1", i/250, i%250)
		_ = g.check(r)
	}
	if len(g.networks) > maxNetworks || g.others.left >= 1 {
		t.Errorf("%d networks, want at most the maximum; %v failures left in the shared bucket, want less than 1", len(g.networks), g.others.left)
	}
}

func TestRequireToken(t *testing.T) {
	for _, c := range []struct {
		token, sent string
		status      int
	}{{token, token, 200}, {token, "x", 401}, {"short", "short", 401}, {"", "", 401}} {
		h := RequireToken(c.token)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "page") }))
		r := httptest.NewRequest("GET", "/debug", nil)
		r.Header.Set("Authorization", "Bearer "+c.sent)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("token %q sent to a server with %q: status %d, want %d", c.sent, c.token, w.Code, c.status)
		}
	}
	for _, bad := range []string{"", token[:31], token + " ", token + "\n", token + "ü"} {
		if _, err := New(Options{Token: bad, EdgeURL: "http://x"}); err == nil {
			t.Errorf("admin token %q was accepted", bad)
		}
	}
	for _, bad := range []string{"", "edge:9009", "ftp://x", "http://", "/x"} {
		if _, err := New(Options{Token: token, EdgeURL: bad}); err == nil {
			t.Errorf("edge URL %q was accepted", bad)
		}
	}
}
