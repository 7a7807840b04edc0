package conn

import (
	"bufio"
	"net"
	"net/http"
	"time"
)

// pace is how fast a client must read. As with bodies (see BodyGrace), an answer may
// keep the server waiting for grace, and for a second for every rate bytes that
// were sent so far.
type pace struct {
	grace time.Duration
	// hasty is the grace of what the edge answers itself, which is little, and of all
	// answers to clients that have proven nothing: see Patient. 0: all have grace.
	hasty time.Duration
	rate  int64         // bytes for which a second is allowed
	slice int           // bytes of a large write that are passed on at once
	total time.Duration // from the request to the end of the answer, whatever the rate
	now   func() time.Time
}

func answerPace() pace {
	return pace{grace: BodyGrace, hasty: hastyGrace, rate: BodyRate, slice: 64 << 10, total: answerTimeout, now: time.Now}
}

// timeAnswers gives every answer a deadline that moves as the client reads it.
// Without one, ten clients that do not read hold the places of a tenant until
// the server's WriteTimeout.
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
		if a.stream { // which ends with the server's own deadline
			_ = a.rc.SetWriteDeadline(a.end)
		}
		h.ServeHTTP(a, r)
		a.finish()
	})
}

// timedAnswer counts only the time in which the server waits for the client:
// one that waits for a slow handler did nothing wrong. It has no ReadFrom, in
// which the two could not be told apart; a ReverseProxy does not use it.
type timedAnswer struct {
	http.ResponseWriter
	rc *http.ResponseController
	pace

	slow     pace // see Patient
	end      time.Time
	stream   bool // of HTTP/2, which ends when its deadline passes, even if nothing is written
	sent     int64
	waited   time.Duration
	armed    time.Time // when the deadline was set
	armedAt  int64     // sent by then
	hijacked bool
}

// Patient gives the client of an answer that a backend makes all the time that
// answers have: BodyGrace, and a second for every BodyRate bytes. Until it is called
// a client may keep the server waiting for a few seconds only.
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

// arm sets the deadline of what is written next. Setting it costs about as much
// as a small write, so it is not done for each of many.
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
		deadline = a.end // it replaces that of http.Server
	}
	_ = a.rc.SetWriteDeadline(deadline) // not every connection has deadlines; those of the edge do
}

// begin and done surround what may wait for the client.
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

// FlushError implements what http.ResponseController looks for first.
func (a *timedAnswer) FlushError() error {
	defer a.done(a.begin())
	return a.rc.Flush()
}

// Flush implements http.Flusher.
func (a *timedAnswer) Flush() { _ = a.FlushError() }

// Hijack implements http.Hijacker. The connection is the handler's from then on.
func (a *timedAnswer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := a.rc.Hijack()
	a.hijacked = a.hijacked || err == nil
	return conn, rw, err
}

// Unwrap leaves the rest to http.ResponseController.
func (a *timedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// finish sets the deadline for what the server still has in its buffer, which
// is all of a small answer: those of pipelined requests that nobody reads, too.
func (a *timedAnswer) finish() {
	if a.hijacked {
		return
	}
	a.armed = time.Time{}
	a.arm(a.now())
}
