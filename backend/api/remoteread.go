package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"

	"github.com/palliumhq/pallium/policies/limits"
)

// remoteRead checks the size of a remote read request before Prometheus'
// handler decompresses it, and mends the status of its errors.
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
		if err := checkRead(buf.Bytes()); err != nil {
			a.fail(w, r, badRequest{fmt.Errorf("remote read body: %w", err)})
			return
		}
		f := &readFault{}
		r = r.WithContext(context.WithValue(r.Context(), readFaultKey{}, f))
		r.Body = readCloser{bytes.NewReader(buf.Bytes())}
		next.ServeHTTP(&readWriter{ResponseWriter: w, fault: f}, r)
	}
}

// checkRead finds what is wrong with a request, to which Prometheus' handler
// says 500.
func checkRead(compressed []byte) error {
	raw, err := snappy.Decode(nil, compressed)
	if err != nil {
		return fmt.Errorf("snappy: %w", err)
	}
	var req prompb.ReadRequest
	if err := req.Unmarshal(raw); err != nil {
		return err
	}
	for _, q := range req.Queries {
		if _, err := remote.FromLabelMatchers(q.Matchers); err != nil {
			return fmt.Errorf("matcher: %w", err)
		}
	}
	return nil
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// readFault is what went wrong below Prometheus' remote read handler, which
// answers 500 for every error.
type readFault struct{ exceeded *limits.Exceeded }

type readFaultKey struct{}

func noteFault(ctx context.Context, err error) {
	if f, ok := ctx.Value(readFaultKey{}).(*readFault); ok && err != nil {
		_ = errors.As(err, &f.exceeded)
	}
}

// readWriter turns the 500 of a query beyond a limit into 422, others into 503.
type readWriter struct {
	http.ResponseWriter
	fault *readFault
}

func (w *readWriter) WriteHeader(code int) {
	if code == http.StatusInternalServerError {
		if code = http.StatusServiceUnavailable; w.fault.exceeded != nil {
			code = http.StatusUnprocessableEntity
		}
	}
	if code >= http.StatusBadRequest { // set for the answer that did not come about
		w.Header().Del("Content-Encoding")
	}
	w.ResponseWriter.WriteHeader(code)
}

// Flush implements http.Flusher, which streamed answers need.
func (w *readWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *readWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// readQueryable tells remote read why a selection failed.
type readQueryable struct{ Queryable }

func (q readQueryable) Querier(mint, maxt int64) (storage.Querier, error) {
	inner, err := q.Queryable.Querier(mint, maxt)
	return readQuerier{inner}, err
}

func (q readQueryable) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	inner, err := q.Queryable.ChunkQuerier(mint, maxt)
	return readChunkQuerier{inner}, err
}

type readQuerier struct{ storage.Querier }

func (q readQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := q.Querier.Select(ctx, sorted, hints, matchers...)
	noteFault(ctx, set.Err())
	return set
}

type readChunkQuerier struct{ storage.ChunkQuerier }

func (q readChunkQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.ChunkSeriesSet {
	set := q.ChunkQuerier.Select(ctx, sorted, hints, matchers...)
	noteFault(ctx, set.Err())
	return set
}
