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

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/policies/limits"
)

// maxReadQueries bounds the queries of one remote read request. Prometheus sends
// one.
const maxReadQueries = 64

// remoteRead lets a remote read in: it checks the size of the request before
// Prometheus' handler decompresses it, and mends the status of its errors.
func (a *api) remoteRead(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, lim, end := a.account(r)
		defer end()
		buf := a.bodies.get()
		defer a.bodies.put(buf)
		leave, err := a.admitRead(w, r, lim, buf)
		if err != nil {
			if cause := context.Cause(r.Context()); cause != nil {
				err = errors.Join(err, cause)
			}
			a.fail(w, r, err)
			return
		}
		defer leave()
		ctx, cause := querier.NoteFaults(r.Context())
		f := &readFault{cause: cause}
		ctx = context.WithValue(ctx, readFaultKey{}, f)
		r = r.WithContext(querier.ReadRaw(ctx, func(err error) { noteFault(ctx, err) }))
		r.Body = readCloser{bytes.NewReader(buf.Bytes())}
		next.ServeHTTP(&readWriter{ResponseWriter: w, fault: f}, r)
	}
}

// admitRead reads and checks the body of a remote read, and takes a place.
func (a *api) admitRead(w http.ResponseWriter, r *http.Request, lim *limits.Limits, buf *bytes.Buffer) (leave func(), err error) {
	h := memory.FromContext(r.Context())
	if err := readBody(w, r, buf, lim.MaxBodyBytes, h); err != nil {
		return nil, err
	}
	n, err := snappy.DecodedLen(buf.Bytes())
	switch {
	case err != nil:
		return nil, badRequest{fmt.Errorf("remote read body: snappy: %w", err)}
	case lim.MaxDecodedBytes > 0 && int64(n) > lim.MaxDecodedBytes:
		return nil, limits.MaxDecodedBytes.Exceeded(lim, int64(n))
	case int64(n) > 64*int64(buf.Len())+64:
		return nil, badRequest{errors.New("remote read body: snappy: the length it claims cannot be true")}
	}
	// It is decompressed and decoded twice; a matcher of a few bytes becomes a
	// struct of a hundred.
	if err := h.Take(2 * int64(n)); err != nil {
		return nil, err
	}
	texts := textCheck{lim: lim}
	if texts.length(n); texts.err != nil {
		return nil, texts.err
	}
	if err := h.Take(32 * int64(n)); err != nil {
		return nil, err
	}
	req, err := decodeRead(buf.Bytes())
	if err != nil {
		return nil, badRequest{fmt.Errorf("remote read body: %w", err)}
	}
	if err := texts.read(req).take(h); err != nil {
		return nil, err
	}
	if err := checkMatchers(req); err != nil {
		return nil, badRequest{fmt.Errorf("remote read body: %w", err)}
	}
	return a.Gate.Enter(r.Context(), access(r), lim)
}

func decodeRead(compressed []byte) (*prompb.ReadRequest, error) {
	raw, err := snappy.Decode(nil, compressed)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	req := &prompb.ReadRequest{}
	if err := req.Unmarshal(raw); err != nil {
		return nil, err
	}
	if n := len(req.Queries); n > maxReadQueries {
		return nil, fmt.Errorf("it has %d queries, at most %d are allowed; send several requests", n, maxReadQueries)
	}
	return req, nil
}

// read takes in the regular expressions of a remote read. Their length is a part
// of the request's, which was taken in before.
func (c *textCheck) read(req *prompb.ReadRequest) *textCheck {
	for _, q := range req.Queries {
		for _, m := range q.Matchers {
			if c.err == nil && (m.Type == prompb.LabelMatcher_RE || m.Type == prompb.LabelMatcher_NRE) {
				n, err := regexsize.Pattern(m.Value, c.left())
				c.count(n, err)
			}
		}
	}
	return c
}

// checkMatchers finds what is wrong with a request, to which Prometheus' handler
// says 500.
func checkMatchers(req *prompb.ReadRequest) error {
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
type readFault struct {
	exceeded *limits.Exceeded
	cause    func() error // see querier.NoteFaults
}

type readFaultKey struct{}

func noteFault(ctx context.Context, err error) {
	if f, ok := ctx.Value(readFaultKey{}).(*readFault); ok && err != nil {
		_ = errors.As(err, &f.exceeded)
	}
}

// readWriter turns the 500 of a query beyond a limit into 422, others into 503 with
// the text that every route has for it.
type readWriter struct {
	http.ResponseWriter
	fault    *readFault
	replaced bool // the answer was written, and what the handler writes is dropped
}

func (w *readWriter) WriteHeader(code int) {
	if code >= http.StatusBadRequest { // set for the answer that did not come about
		w.Header().Del("Content-Encoding")
	}
	switch {
	case code != http.StatusInternalServerError:
	case w.fault.exceeded != nil:
		code = http.StatusUnprocessableEntity
	default:
		_, text := status(w.fault.cause())
		w.replaced = true
		w.Header().Set("Retry-After", retryAfter)
		writeText(w.ResponseWriter, http.StatusServiceUnavailable, text)
		return
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *readWriter) Write(p []byte) (int, error) {
	if w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
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

func (q readChunkQuerier) Select(
	ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher,
) storage.ChunkSeriesSet {
	set := q.ChunkQuerier.Select(ctx, sorted, hints, matchers...)
	noteFault(ctx, set.Err())
	return set
}
