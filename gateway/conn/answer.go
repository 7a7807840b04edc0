package conn

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// pace is the minimum speed at which a client must read. As for bodies (see BodyGrace), the server
// waits for the client for at most grace, plus one second for every rate bytes that were sent so
// far.
type pace struct {
	grace time.Duration
	// hasty is the grace of responses of the edge itself, which are small, including all responses
	// to unauthenticated clients: it applies until Patient is called. 0: grace applies to all
	// responses.
	hasty time.Duration
	rate  int64         // bytes per second
	slice int           // maximum bytes per write to the connection
	total time.Duration // maximum time from the request to the end of the response
	now   func() time.Time
}

func answerPace() pace {
	return pace{grace: BodyGrace, hasty: hastyGrace, rate: BodyRate, slice: 64 << 10, total: answerTimeout, now: time.Now}
}

// timeAnswers gives every response a deadline that moves as the client reads. Without it, a few
// clients that do not read would use up the concurrent requests of a tenant until the server's
// WriteTimeout.
func (p pace) timeAnswers(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &timedAnswer{
			ResponseWriter: w,
			rc:             http.NewResponseController(w),
			pace:           p,
			slow:           p,
			end:            p.now().Add(p.total),
			stream:         r.ProtoMajor > 1,
		}
		if p.hasty > 0 {
			a.grace, a.rate = p.hasty, 0
		}
		if a.stream { // the server's own deadline would end the stream
			_ = a.rc.SetWriteDeadline(a.end)
		}
		h.ServeHTTP(a, r)
		a.finish()
	})
}

// timedAnswer counts only the time during which the server waits for the client, not the time of a
// slow handler. It has no method ReadFrom, in which the two could not be distinguished. (A
// ReverseProxy does not need one.)
type timedAnswer struct {
	http.ResponseWriter
	rc *http.ResponseController
	pace

	slow     pace // see Patient
	end      time.Time
	stream   bool // HTTP/2: the stream ends when its deadline passes, even if nothing is written
	sent     int64
	waited   time.Duration
	armed    time.Time // when the deadline was set
	armedAt  int64     // value of sent at that time
	hijacked bool
}

// Patient gives the client of a response by a backend the full time to read it:
// BodyGrace, and a second for every BodyRate bytes. Before it is called, a client may
// keep the server waiting only for a few seconds.
func Patient(w http.ResponseWriter) {
	for w != nil {
		if a, ok := w.(*timedAnswer); ok {
			a.grace, a.rate, a.armed = a.slow.grace, a.slow.rate, time.Time{}
			return
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}

// arm sets the deadline of the next write. Setting it costs about as much as a small
// write, so it is not set for each of many writes.
func (a *timedAnswer) arm(now time.Time) {
	if !a.armed.IsZero() && now.Sub(a.armed) < a.grace/16 && a.sent-a.armedAt < int64(a.slice) {
		return
	}
	a.armed, a.armedAt = now, a.sent
	allowed := a.grace
	if a.rate > 0 {
		allowed += time.Duration(a.sent/a.rate) * time.Second
	}
	deadline := now.Add(allowed - a.waited)
	if a.end.Before(deadline) {
		deadline = a.end // the deadline replaces that of http.Server
	}
	_ = a.rc.SetWriteDeadline(deadline) // ignored: all connections of the edge support deadlines
}

// begin is called before an operation that may wait for the client, done after it.
func (a *timedAnswer) begin() time.Time {
	now := a.now()
	a.arm(now)
	return now
}

func (a *timedAnswer) done(begun time.Time) {
	a.waited += a.now().Sub(begun)
	if a.stream {
		_ = a.rc.SetWriteDeadline(a.end)
		a.armed = time.Time{}
	}
}

func (a *timedAnswer) WriteHeader(status int) {
	defer a.done(a.begin())
	a.ResponseWriter.WriteHeader(status)
}

func (a *timedAnswer) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := a.writePart(p[written:min(len(p), written+a.slice)])
		written += n
		if err != nil || written >= len(p) {
			return written, err
		}
	}
}

func (a *timedAnswer) writePart(p []byte) (int, error) {
	defer a.done(a.begin())
	n, err := a.ResponseWriter.Write(p)
	a.sent += int64(n)
	return n, err
}

// FlushError implements the interface that http.ResponseController prefers to
// http.Flusher.
func (a *timedAnswer) FlushError() error {
	defer a.done(a.begin())
	return a.rc.Flush()
}

// Flush implements http.Flusher.
func (a *timedAnswer) Flush() { _ = a.FlushError() }

// Hijack implements http.Hijacker. The handler owns the connection afterwards.
func (a *timedAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := a.rc.Hijack()
	a.hijacked = a.hijacked || err == nil
	return conn, rw, err
}

// Unwrap supports http.ResponseController.
func (a *timedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// finish sets the deadline for sending the part of the response that is still in the
// server's buffer. A small response is buffered as a whole, and so are the responses to
// pipelined requests of a client that does not read them.
func (a *timedAnswer) finish() {
	if a.hijacked {
		return
	}
	a.armed = time.Time{}
	a.arm(a.now())
}
