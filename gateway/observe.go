package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// newRequestID returns an ID for finding a request in the logs; it does not need to be unguessable.
// A client's own ID is never used, since it would be written to the log unchecked.
func newRequestID() string {
	var b [8]byte
	var out [16]byte
	binary.BigEndian.PutUint64(b[:], rand.Uint64())
	hex.Encode(out[:], b[:])
	return string(out[:])
}

// finish runs after every request, including one that panicked.
func (x *exchange) finish() {
	p := recover()
	if x.held != nil {
		defer x.held.Close()
	}
	err, _ := p.(error)
	aborted := errors.Is(err, http.ErrAbortHandler)
	if p != nil && !aborted {
		x.g.log.panicked(x, p, debug.Stack())
		x.rec.reject(&rejection{status: http.StatusInternalServerError, reason: "panic", text: "internal error"})
	}
	if x.rec.whole != nil {
		x.rec.complete(aborted || p != nil && x.rec.rejected == nil)
		aborted, p = false, nil
	}
	x.g.metrics.observe(x)
	x.g.log.request(x)
	if aborted || (p != nil && x.rec.rejected == nil) {
		// A part of the response was sent already: only closing the connection
		// can show the client that it is incomplete.
		panic(http.ErrAbortHandler)
	}
}

// rejectionsPerSecond bounds the rejections that are logged per second.
const rejectionsPerSecond = 10

// requestLog logs rejections as warnings, at most rejectionsPerSecond, and all other requests at
// debug level. A rejection with 404 or 499 counts as another request. No line contains a key, a JWT
// or a query.
type requestLog struct {
	log *slog.Logger
	now func() time.Time

	mu         sync.Mutex
	second     time.Time // start of the second that logged counts
	logged     int
	suppressed int
}

func newRequestLog(log *slog.Logger, now func() time.Time) *requestLog {
	return &requestLog{log: log, now: now}
}

func (l *requestLog) request(x *exchange) {
	ctx := x.r.Context()
	if f := x.rec.rejected; f != nil && f.status != http.StatusNotFound && f.status != statusClientGone {
		if skipped, ok := l.sample(); ok {
			attrs := append(x.attrs(), slog.String("reason", f.reason), slog.Int("suppressed", skipped))
			if f.detail != nil {
				attrs = append(attrs, slog.String("err", f.detail.Error()))
			}
			l.log.LogAttrs(ctx, slog.LevelWarn, "request rejected", attrs...)
		}
		return
	}
	if l.log.Enabled(ctx, slog.LevelDebug) {
		l.log.LogAttrs(ctx, slog.LevelDebug, "request", append(x.attrs(), slog.Duration("took", l.now().Sub(x.start)))...)
	}
}

// sample reports whether to log another rejection, and how many were suppressed since the
// last one that was logged.
func (l *requestLog) sample() (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.second) >= time.Second {
		l.second, l.logged = now, 0
	}
	if l.logged >= rejectionsPerSecond {
		l.suppressed++
		return 0, false
	}
	l.logged++
	skipped, l.suppressed = l.suppressed, 0
	return skipped, true
}

func (l *requestLog) panicked(x *exchange, p any, stack []byte) {
	l.log.LogAttrs(x.r.Context(), slog.LevelError, "request panicked",
		append(x.attrs(), slog.Any("panic", p), slog.String("stack", string(stack)))...)
}

func (x *exchange) attrs() []slog.Attr {
	return []slog.Attr{
		slog.String("request", x.rec.requestID), slog.String("route", x.route.Name),
		slog.String("method", methodLabel(x.r.Method)), slog.Int("status", x.rec.status),
		slog.String("tenant", string(x.tenant)), slog.String("credential", x.credential),
		slog.String("from", x.from.String()),
	}
}

func codeLabel(status int) string {
	switch status {
	case 200:
		return "200"
	case 204:
		return "204"
	}
	return strconv.Itoa(status)
}
