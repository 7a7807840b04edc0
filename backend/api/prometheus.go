package api

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// Bounds of remote read, which streams: they are per process.
const (
	readConcurrency = 10
	readFrameBytes  = 1 << 20
)

// prometheus is Prometheus' own API handler, of which New serves a part.
func (a *api) prometheus() http.Handler {
	p := v1.NewAPI(
		a.Engine, a.Queryable, nil, a.Queryable,
		nil, nil, nil, // scrape pools, targets, alertmanagers: Pallium scrapes nothing
		func() config.Config { return config.Config{} }, nil, v1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // readiness is the edge's
		nil, "", false, // no TSDB, no TSDB administration
		false, 0, a.Logger, nil,
		0, readConcurrency, readFrameBytes,
		false, nil, nil, &v1.PrometheusVersion{}, nil, nil,
		nil, a.Registerer, nil,
		false, nil, false, false, false, // writes are ours
		a.Lookback, false, false, nil, nil, v1.OpenAPIOptions{}, a.Parser, false, 0,
	)
	router := route.New()
	p.Register(router)
	return router
}

// remoteRead checks the size of a remote read request before Prometheus'
// handler decompresses it.
func (a *api) remoteRead(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		lim := a.Limits(access(r))
		buf := a.bodies.get()
		defer a.bodies.put(buf)
		if err := readBody(w, r, buf, lim.MaxBodyBytes); err != nil {
			a.fail(w, r, err)
			return
		}
		n, err := snappy.DecodedLen(buf.Bytes())
		switch {
		case err != nil:
			a.fail(w, r, badRequest{fmt.Errorf("remote read body: snappy: %w", err)})
			return
		case lim.MaxDecodedBytes > 0 && int64(n) > lim.MaxDecodedBytes:
			a.fail(w, r, tooLarge(fmt.Sprintf("body is %d bytes decompressed, limit max_decoded_bytes allows %d", n, lim.MaxDecodedBytes)))
			return
		case int64(n) > 64*int64(buf.Len())+64:
			a.fail(w, r, badRequest{errors.New("remote read body: snappy: the length it claims cannot be true")})
			return
		}
		r.Body = readCloser{bytes.NewReader(buf.Bytes())}
		next.ServeHTTP(w, r)
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }
