package api

import (
	"net/http"

	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/backend/querier"
)

// Bounds of remote read. Only answers of old clients, which do not stream, are held
// in memory; readSamples is Prometheus' own default. How many run at once is the
// gate's to say, tenant by tenant: Prometheus' own bound would be one for all.
const (
	readSamples     = 50_000_000
	readConcurrency = 1 << 20
	readFrameBytes  = 1 << 20
)

// prometheus is Prometheus' own API handler, of which New serves a part.
func (a *api) prometheus() http.Handler {
	p := v1.NewAPI(
		a.Engine, readQueryable{a.Queryable}, nil, a.Queryable,
		nil, nil, nil, // scrape pools, targets, alertmanagers: Pallium scrapes nothing
		func() config.Config { return config.Config{} }, nil, v1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // readiness is the edge's
		nil, "", false, // no TSDB, no TSDB administration
		false, 0, a.Logger, nil,
		readSamples, readConcurrency, readFrameBytes,
		false, nil, nil, &v1.PrometheusVersion{}, nil, nil,
		nil, a.Registerer, nil,
		false, nil, false, false, false, // writes are ours
		a.Lookback, false, false, nil, nil, v1.OpenAPIOptions{}, a.Parser, false, 0,
	)
	router := route.New()
	p.Register(router)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// CORS is the edge's. Without a pattern of origins, which is what nil
		// above is, Prometheus' handlers panic at a request that has one.
		r.Header.Del("Origin")
		if _, ok := w.(*readWriter); !ok { // remote read does it itself
			ctx, fault := querier.NoteFaults(r.Context())
			w, r = &unavailableWriter{ResponseWriter: w, fault: fault}, r.WithContext(ctx)
		}
		router.ServeHTTP(w, r)
	})
}

// unavailableWriter answers 503 with one body where Prometheus' handlers answer
// 500, or 422 for what could not be read, each with a body of its own: that is our
// trouble and may work when it is asked for again.
type unavailableWriter struct {
	http.ResponseWriter
	fault    func() error
	replaced bool // the answer was written, and what the handler writes is dropped
}

// WriteHeader implements http.ResponseWriter.
func (w *unavailableWriter) WriteHeader(code int) {
	err := w.fault()
	if code == http.StatusInternalServerError || code == http.StatusUnprocessableEntity && err != nil {
		_, text := status(err)
		w.replaced = true
		w.Header().Set("Retry-After", retryAfter)
		w.Header().Del("Content-Encoding")
		w.Header().Del("Content-Length")
		writeError(w.ResponseWriter, http.StatusServiceUnavailable, "unavailable", text)
		return
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *unavailableWriter) Write(p []byte) (int, error) {
	if w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController, Flush for remote read.
func (w *unavailableWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *unavailableWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
