package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/pebble"
)

const token = "0123456789abcdef0123456789abcdef"

type server struct {
	t       *testing.T
	handler http.Handler
	control *control.Control
	now     time.Time
	extra   int // calls of the extra route
	store   *auditedStore
}

// auditedStore counts changes, and can reject writes of audit events.
type auditedStore struct {
	rows.Store
	down    bool
	changes int
}

func (s *auditedStore) Mutate(ctx context.Context, m rows.RowMutation) error {
	if strings.HasPrefix(m.Key, "\x02v") && s.down { // audit events, see authn/control
		return errors.New("no space left for audit events")
	}
	s.changes++
	return s.Store.Mutate(ctx, m)
}

func (s *auditedStore) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	s.changes++
	return s.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

func newServer(t *testing.T) *server {
	t.Helper()
	store, err := pebble.Open("db", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	pepper, err := apikey.NewPepper(bytes.Repeat([]byte("p"), 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, store: &auditedStore{Store: store}, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	clock := func() time.Time { s.now = s.now.Add(time.Nanosecond); return s.now }
	s.control, err = control.Open(context.Background(), control.Options{Store: s.store, Pepper: pepper, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	s.handler, err = New(Options{
		Control: s.control, Token: token, EdgeURL: "https://edge.example/", Now: clock,
		Extra: func(r chi.Router) {
			r.Post("/flush", func(w http.ResponseWriter, _ *http.Request) { s.extra++; w.WriteHeader(http.StatusNoContent) })
			r.Get("/panic", func(http.ResponseWriter, *http.Request) { panic("secret detail") })
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) field(path ...string) any {
	var v any
	if json.Unmarshal([]byte(a.body), &v) != nil {
		return nil
	}
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (a answer) text(path ...string) string {
	s, _ := a.field(path...).(string)
	return s
}

// do sends a request with the admin token; headers are "Name: value".
func (s *server) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, v, _ := strings.Cut(h, ": ")
		r.Header.Del(name)
		if v != "" {
			r.Header.Set(name, v)
		}
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return answer{w.Code, w.Header(), w.Body.String()}
}

// must sends a request that has to succeed.
func (s *server) must(method, path, body string, headers ...string) answer {
	s.t.Helper()
	a := s.do(method, "/admin/v1"+path, body, headers...)
	if a.status >= 300 {
		s.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

func seed(t *testing.T) (s *server, tokenID string) {
	s = newServer(t)
	s.must("POST", "/plans", `{"name":"gold","limits":{"max_active_series":7}}`)
	s.must("POST", "/tenants", `{"name":"a","displayName":"A","plan":"gold","limits":{"retention":"30d"}}`)
	s.must("POST", "/tenants", `{"name":"b"}`)
	s.must("POST", "/access-policies", `{"name":"pol","scopes":["metrics:read"],"realms":[{"tenant":"b"},{"tenant":"a"}]}`)
	tk := s.must("POST", "/tokens", `{"name":"k","tenant":"a","scopes":["metrics:write","metrics:read"]}`)
	return s, tk.text("id")
}
