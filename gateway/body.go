package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/policies/limits"
)

const deadlineStep = 256 << 10 // bytes between two settings of the deadline

// body is a client's request body. All of it arrives before the request takes a
// place among its tenant's or a connection to a backend, so that who sends slowly
// holds neither. What has arrived is held in memory and taken from its account.
type body struct {
	limit  int64
	rc     *http.ResponseController
	src    io.Reader // http.MaxBytesReader
	start  time.Time
	nextAt int64 // bytes at which the deadline is moved
	buffer conn.Buffer
	n      int64
}

func newBody(w http.ResponseWriter, r *http.Request, limit int64, take func(int64) error) *body {
	return &body{
		limit:  limit,
		rc:     http.NewResponseController(w),
		src:    http.MaxBytesReader(w, r.Body, limit),
		start:  time.Now(),
		buffer: conn.Buffer{Take: take},
	}
}

// receive reads the body to its end.
func (b *body) receive() *rejection {
	if b == nil {
		return nil
	}
	_, err := b.buffer.ReadFrom(readFunc(b.read))
	var large *http.MaxBytesError
	var broken *readError
	switch {
	case err == nil:
		// The connection is now watched for the client's going away, which
		// an expired deadline would be mistaken for while the backend works.
		_ = b.rc.SetReadDeadline(time.Time{})
		return nil
	case errors.As(err, &large):
		return tooLarge(b.limit, limits.More)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &rejection{status: http.StatusRequestTimeout, reason: "body_slow", text: "the request body arrived too slowly"}
	case errors.As(err, &broken):
		return badRequest("body_broken", "the request body could not be read to its end")
	}
	return noMemory(err)
}

// read moves the deadline as data comes.
func (b *body) read(p []byte) (int, error) {
	if b.n >= b.nextAt {
		// Not every connection has deadlines; those of the edge do.
		_ = b.rc.SetReadDeadline(b.start.Add(conn.BodyGrace + time.Duration(b.n/conn.BodyRate)*time.Second))
		b.nextAt = b.n + deadlineStep
	}
	n, err := b.src.Read(p)
	b.n += int64(n)
	if err != nil && err != io.EOF {
		err = &readError{err}
	}
	return n, err
}

// received is how many bytes of the client's were read.
func (b *body) received() int64 {
	if b == nil {
		return 0
	}
	return b.n
}

// readError is of the client's connection, and not of the memory's account.
type readError struct{ err error }

// Error implements error.
func (e *readError) Error() string { return "read request body: " + e.err.Error() }

// Unwrap returns what went wrong.
func (e *readError) Unwrap() error { return e.err }

type readFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readFunc) Read(p []byte) (int, error) { return f(p) }
