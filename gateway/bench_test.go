package gateway

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

type fixedAuth struct{ proof authn.Proof }

func (a fixedAuth) Authenticate(context.Context, authn.Attempt) (authn.Proof, error) {
	return a.proof, nil
}

type nullWriter struct{ h http.Header }

func (w nullWriter) Header() http.Header         { return w.h }
func (w nullWriter) WriteHeader(int)             {}
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkPipeline measures what the gateway adds to a request in one process:
// everything except net/http, the check of the credential and the backend.
func BenchmarkPipeline(b *testing.B) {
	lim := limits.Default()
	lim.RequestsPerSecond, lim.BytesPerSecond = 1e9, 1e12
	lim.RequestBurst, lim.ByteBurst = 1<<30, 1<<40
	g, err := New(Options{
		Auth:    fixedAuth{authn.Proof{Identity: tenant.Identity{Credential: "tk", Tenants: []tenant.ID{"a"}, Scopes: tenant.Scopes()}}},
		Tenants: &tenants{limits: map[tenant.ID]limits.Limits{"a": lim}},
		Backend: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "0")
			w.WriteHeader(http.StatusNoContent)
		}),
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("push", func(b *testing.B) {
		r := httptest.NewRequest("POST", "/api/v1/push", nil)
		r.Header.Set("Authorization", "Bearer x")
		r.Header.Set("Content-Type", "application/x-protobuf")
		r.Header.Set("Content-Encoding", "snappy")
		r.Header.Set("User-Agent", "Prometheus/3")
		r.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
		body := strings.NewReader(strings.Repeat("x", 10_000)) // only the length matters
		r.Body, r.ContentLength = io.NopCloser(body), body.Size()
		b.ReportAllocs()
		for b.Loop() {
			body.Reset("")
			g.ServeHTTP(nullWriter{http.Header{}}, r)
		}
	})
	b.Run("query", func(b *testing.B) {
		r := httptest.NewRequest("GET", "/prometheus/api/v1/query_range?query=up&start=1&end=2&step=15", nil)
		r.Header.Set("Authorization", "Bearer x")
		b.ReportAllocs()
		for b.Loop() {
			g.ServeHTTP(nullWriter{http.Header{}}, r)
		}
	})
}
