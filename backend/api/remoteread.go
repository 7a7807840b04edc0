package api

import (
	"bytes"
	"cmp"
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

// maxReadQueries is the maximum number of queries in one remote read request.
// Prometheus sends one.
const maxReadQueries = 64

// remoteRead handles a remote read: it checks the size of the request before Prometheus' handler
// decompresses it, takes a slot of the gate and of the queriers, and replaces the status of errors.
func (a *api) remoteRead(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, lim, end := a.account(r)
		defer end()
		buf := a.bodies.get()
		defer a.bodies.put(buf)
		w, r, entry := a.begin(w, r)
		defer entry.Done()
		leave, release, err := a.admitRead(w, r, lim, buf)
		if err != nil {
			if cause := context.Cause(r.Context()); cause != nil {
				err = errors.Join(err, cause)
			}
			a.fail(w, r, err)
			return
		}
		defer leave()
		defer release()
		entry.Run()
		ctx, cause := querier.NoteFaults(r.Context())
		f := &readFault{cause: cause}
		ctx = context.WithValue(ctx, readFaultKey{}, f)
		r = r.WithContext(querier.ReadRaw(ctx, func(err error) { noteFault(ctx, err) }))
		r.Body = readCloser{bytes.NewReader(buf.Bytes())}
		next.ServeHTTP(&readWriter{ResponseWriter: slotWriter{w, release}, fault: f, gone: func() bool { return clientGone(r) },
			ended: func() error { return cmp.Or(ended(r), f.ended) }}, r)
	}
}

// admitRead reads and checks the body of a remote read, takes a slot of the gate, and waits for a
// slot of the queriers. leave gives back the first, release the second.
func (a *api) admitRead(w http.ResponseWriter, r *http.Request, lim *limits.Limits, buf *bytes.Buffer) (leave, release func(), err error) {
	h := memory.FromContext(r.Context())
	if err := readBody(w, r, buf, lim.MaxBodyBytes, h); err != nil {
		return nil, nil, err
	}
	n, err := snappy.DecodedLen(buf.Bytes())
	switch {
	case err != nil:
		return nil, nil, badRequest{fmt.Errorf("remote read body: snappy: %w", err)}
	case lim.MaxDecodedBytes > 0 && int64(n) > lim.MaxDecodedBytes:
		return nil, nil, limits.MaxDecodedBytes.Exceeded(lim, int64(n))
	case int64(n) > 64*int64(buf.Len())+64:
		return nil, nil, badRequest{errors.New("remote read body: snappy: the decompressed length in the header is impossible")}
	}
	// The body is decompressed and decoded twice, here and by Prometheus. A
	// matcher of a few bytes becomes a struct of a hundred bytes.
	if err := h.Take(2 * int64(n)); err != nil {
		return nil, nil, err
	}
	texts := textCheck{lim: lim}
	if texts.length(n); texts.err != nil {
		return nil, nil, texts.err
	}
	if err := h.Take(32 * int64(n)); err != nil {
		return nil, nil, err
	}
	req, err := decodeRead(buf.Bytes())
	if err != nil {
		return nil, nil, badRequest{fmt.Errorf("remote read body: %w", err)}
	}
	if err := texts.read(req).take(h); err != nil {
		return nil, nil, err
	}
	if err := checkMatchers(req); err != nil {
		return nil, nil, badRequest{fmt.Errorf("remote read body: %w", err)}
	}
	if leave, err = a.Gate.Enter(r.Context(), access(r), lim); err != nil {
		return nil, nil, err
	}
	if release, err = a.holdSlot(r, false); err != nil {
		leave()
		return nil, nil, err
	}
	return leave, release, nil
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
		return nil, fmt.Errorf("the remote read request has %d queries, the maximum is %d: send several requests", n, maxReadQueries)
	}
	return req, nil
}

// read checks the regular expressions of a remote read. Their length is part of the request's
// length, which admitRead has checked.
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

// checkMatchers returns an error for invalid matchers, for which Prometheus'
// handler would respond with 500.
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

// readFault records errors of the queryable in a remote read, because Prometheus' handler responds
// with 500 to every error.
type readFault struct {
	exceeded *limits.Exceeded
	ended    error        // memory.ErrEnded, or nil
	cause    func() error // see querier.NoteFaults
}

type readFaultKey struct{}

func noteFault(ctx context.Context, err error) {
	if f, ok := ctx.Value(readFaultKey{}).(*readFault); ok && err != nil {
		_ = errors.As(err, &f.exceeded)
		if errors.Is(err, memory.ErrEnded) {
			f.ended = memory.ErrEnded
		}
	}
}

// readWriter replaces the status 500 of Prometheus' handler: by 422 if a limit was exceeded, or an
// operator or the memory account ended the read, and by 503 for a timeout and for other errors, with
// the same text as on all routes. If the client is gone, the status is 499.
type readWriter struct {
	http.ResponseWriter
	fault    *readFault
	gone     func() bool  // reports whether the client has closed the connection
	ended    func() error // returns why the read was ended, or nil
	replaced bool         // the replacement was written: output of the handler is dropped
}

func (w *readWriter) WriteHeader(code int) {
	if code >= http.StatusBadRequest { // the handler sets Content-Encoding before it knows whether it succeeds
		w.Header().Del("Content-Encoding")
	}
	switch {
	case code >= http.StatusBadRequest && w.gone():
		code = statusClientGone
	case code != http.StatusInternalServerError:
	case w.fault.exceeded != nil && timedOut(w.fault.exceeded):
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	case w.fault.exceeded != nil:
		code = http.StatusUnprocessableEntity
	case w.ended() != nil:
		w.replaced = true
		writeText(w.ResponseWriter, http.StatusUnprocessableEntity, w.ended().Error())
		return
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

// Flush implements http.Flusher, which streamed responses need.
func (w *readWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *readWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// readQueryable wraps a Queryable. It records the error of a failed selection in
// the context of the remote read.
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
