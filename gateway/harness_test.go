package gateway

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/fake"
)

// modes are the two ways to a backend, which must forward the same requests.
var modes = []string{"direct", "proxy"}

// tenants is a limits store in memory.
type tenants struct {
	mu     sync.Mutex
	limits map[tenant.ID]limits.Limits
	broken error
}

func (s *tenants) Limits(_ context.Context, id tenant.ID) (limits.Limits, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return limits.Limits{}, s.broken
	}
	l, ok := s.limits[id]
	if !ok {
		return limits.Limits{}, tenant.ErrUnknown
	}
	return l, nil
}

func (s *tenants) set(id tenant.ID, l limits.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits[id] = l
}

// seen is a request that the backend received.
type seen struct {
	tenant string
	method string
	path   string
	query  string
	header http.Header
	body   string
	err    error // of reading the body
}

// backend records every request and responds with answer, or with a default.
type backend struct {
	t      *testing.T
	direct bool
	answer func(w http.ResponseWriter, r *http.Request)

	mu  sync.Mutex
	got []seen
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	access, err := tenant.AccessFromHeaders(r.Header)
	if b.direct {
		fromContext, cerr := tenant.FromContext(r.Context())
		if cerr != nil || fromContext != access {
			b.t.Errorf("access in the context = %v (%v), in the headers = %v", fromContext, cerr, access)
		}
	}
	if err != nil {
		b.t.Errorf("request without access reached the backend: %v", err)
	}
	s := seen{tenant: string(access.Tenant), method: r.Method, path: r.URL.Path, query: r.URL.RawQuery, header: r.Header.Clone()}
	if b.answer == nil {
		data, err := io.ReadAll(r.Body)
		s.body, s.err = string(data), err
	}
	b.mu.Lock()
	b.got = append(b.got, s)
	b.mu.Unlock()
	if b.answer != nil {
		b.answer(w, r)
		return
	}
	if s.err != nil {
		http.Error(w, "body: "+s.err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.WriteString(w, "backend of "+s.tenant)
}

// take returns the requests since the last call.
func (b *backend) take() []seen {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.got
	b.got = nil
	return got
}

const (
	testIssuer = "https://issuer.test"
	testSecret = "0123456789abcdef0123456789abcdef"
)

// edge is a gateway on a real listener with a backend, keys and tenants.
type edge struct {
	t       *testing.T
	mode    string
	gateway *Gateway
	served  *counted
	addr    string
	backend *backend
	keys    *fake.Keys
	tenants *tenants
	clock   *kit.Clock
	logs    *kit.Buffer
	cred    map[string]string // $A, $B, $AB, ... in requests
}

func newEdge(t *testing.T, mode string, change func(*Options)) *edge {
	t.Helper()
	e := &edge{
		t: t, mode: mode, logs: &kit.Buffer{},
		clock:   kit.NewClock(time.Now()),
		backend: &backend{t: t, direct: mode == "direct"},
		keys:    fake.NewKeys(),
		tenants: &tenants{limits: map[tenant.ID]limits.Limits{"a": limits.Default(), "b": limits.Default()}},
		cred:    map[string]string{},
	}
	o := Options{
		Auth: e.authenticator(), Tenants: e.tenants, Now: e.clock.Now,
		Logger: slog.New(slog.NewTextHandler(e.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if mode == "direct" {
		o.Backend = e.backend
	} else {
		srv := httptest.NewServer(e.backend)
		t.Cleanup(srv.Close)
		o.BackendURLs = []string{srv.URL}
	}
	if change != nil {
		change(&o)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	e.gateway, e.served = g, &counted{Gateway: g}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := conn.Server(conn.Options{Handler: e.served, Logger: o.Logger, Hasty: true})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(conn.Guard(l, conn.HeaderBytes)) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	e.addr = l.Addr().String()
	return e
}

func (e *edge) authenticator() *authn.Authenticator {
	e.t.Helper()
	pepper, err := apikey.NewPepper([]byte(testSecret))
	if err != nil {
		e.t.Fatal(err)
	}
	add := func(name string, change func(*apikey.Credential), scopes []tenant.Scope, ids ...tenant.ID) {
		k, err := apikey.Generate()
		if err != nil {
			e.t.Fatal(err)
		}
		c := apikey.Credential{KeyID: k.ID(), Hash: pepper.HashKey(k), ExpiresAt: e.clock.Now().Add(time.Hour),
			Identity: tenant.Identity{Credential: "tk_" + name, Tenants: ids, Scopes: scopes}}
		if change != nil {
			change(&c)
		}
		e.keys.ByID[k.ID()] = c
		e.cred["$"+name] = k.Text()
	}
	all := tenant.Scopes()
	add("A", nil, all, "a")
	add("B", nil, all, "b")
	add("AB", nil, all, "a", "b")
	add("READ", nil, []tenant.Scope{tenant.MetricsRead}, "a")
	add("WRITE", nil, []tenant.Scope{tenant.MetricsWrite}, "a")
	add("NOBODY", nil, all)
	for _, name := range []string{"LIMITED", "ROTATED"} { // two keys of one token
		add(name, func(c *apikey.Credential) {
			c.Identity.Credential, c.Identity.MaxConcurrentRequests = "tk_LIMITED", tokenLimit
		}, all, "a", "b")
	}
	add("GONE", nil, all, "gone")
	add("REVOKED", func(c *apikey.Credential) { c.Revoked = true }, all, "a")
	add("EXPIRED", func(c *apikey.Credential) { c.ExpiresAt = e.clock.Now() }, all, "a")
	unknown, _ := apikey.Generate()
	e.cred["$UNKNOWN"] = unknown.Text()
	now := e.clock.Now().Unix()
	e.cred["$JA"] = signJWT(map[string]any{"iss": testIssuer, "aud": "pallium", "exp": now + 600, "tenant": "a", "scope": "metrics:read metrics:write"})
	e.cred["$JX"] = signJWT(map[string]any{"iss": testIssuer, "aud": "pallium", "exp": now - 600, "tenant": "a", "scope": "metrics:read"})
	e.cred["$JNONE"] = signJWT(map[string]any{"iss": testIssuer, "aud": "pallium", "exp": now + 600, "scope": "metrics:read"})

	secret := filepath.Join(e.t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(testSecret+"\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	a, err := authn.New(authn.Options{
		Keys: e.keys, Pepper: pepper, Now: e.clock.Now,
		Config: authn.Config{Issuers: []authn.IssuerConfig{{
			Issuer: testIssuer, Audiences: []string{"pallium"}, Keys: authn.KeysConfig{SecretFile: secret},
		}}},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

func signJWT(claims map[string]any) string {
	c, _ := json.Marshal(claims)
	enc := base64.RawURLEncoding.EncodeToString
	signed := enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc(c)
	m := hmac.New(sha256.New, []byte(testSecret))
	m.Write([]byte(signed))
	return signed + "." + enc(m.Sum(nil))
}

// fill replaces $NAME, and basic($USER,$NAME), by credentials.
func (e *edge) fill(s string) string {
	if user, rest, ok := strings.Cut(s, "basic("); ok {
		inner, tail, _ := strings.Cut(rest, ")")
		name, pass, _ := strings.Cut(inner, ",")
		if v, ok := e.cred[pass]; ok {
			pass = v
		}
		return user + base64.StdEncoding.EncodeToString([]byte(name+":"+pass)) + tail
	}
	if i := strings.IndexByte(s, '$'); i >= 0 {
		if v, ok := e.cred[s[i:]]; ok {
			return s[:i] + v
		}
	}
	return s
}

// counted is a gateway that counts requests in progress.
type counted struct {
	*Gateway
	under atomic.Int64
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.under.Add(1)
	defer c.under.Add(-1)
	c.Gateway.ServeHTTP(w, r)
}

// waitIdle returns when all requests are done and their costs are charged.
func (e *edge) waitIdle() {
	e.t.Helper()
	kit.Until(e.t, "all requests are done", func() bool { return e.served.under.Load() == 0 })
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends "METHOD target" with header lines as written, over a new connection, and
// returns the response.
func (e *edge) do(line string, headers []string, body string) answer {
	e.t.Helper()
	var b strings.Builder
	if !strings.HasSuffix(line, "HTTP/1.0") {
		line += " HTTP/1.1"
	}
	fmt.Fprintf(&b, "%s\r\nHost: edge\r\n", line)
	framed := false
	for _, h := range headers {
		l := strings.ToLower(h)
		framed = framed || strings.HasPrefix(l, "content-length:") || strings.HasPrefix(l, "transfer-encoding:")
		b.WriteString(e.fill(h) + "\r\n")
	}
	if !framed && (body != "" || strings.HasPrefix(line, "POST")) {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	return e.raw(b.String())
}

func (e *edge) raw(text string) answer {
	e.t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = io.WriteString(c, text) }()
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: strings.SplitN(text, " ", 2)[0]})
	if err != nil {
		e.t.Fatalf("read response: %v", err)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		e.t.Fatalf("read response: %v", err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}
