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

const deadlineStep = 256 << 10 // bytes received between two updates of the read deadline

// body is a client's request body. It is received completely before the request counts
// against its tenant's concurrent requests or uses a connection to a backend, so that a
// slow sender holds neither. The received bytes are buffered and charged to the request's
// memory account.
type body struct {
	limit  int64
	rc     *http.ResponseController
	src    io.Reader // http.MaxBytesReader
	start  time.Time
	nextAt int64 // number of received bytes after which the deadline is moved again
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

// receive reads the whole body into the buffer.
func (b *body) receive() *rejection {
	if b == nil {
		return nil
	}
	_, err := b.buffer.ReadFrom(readFunc(b.read))
	var large *http.MaxBytesError
	var broken *readError
	switch {
	case err == nil:
		// net/http now reads from the connection to detect that the client has
		// disconnected. An expired deadline would look like a disconnect.
		_ = b.rc.SetReadDeadline(time.Time{})
		return nil
	case errors.As(err, &large):
		return tooLarge(b.limit, limits.More)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &rejection{status: http.StatusRequestTimeout, reason: "body_slow", text: "the request body arrived too slowly: check the " +
			"network between client and gateway, or send smaller requests"}
	case errors.As(err, &broken):
		return badRequest("body_broken", "the request body ended early or is malformed: it could not be read to its end")
	}
	return noMemory(err)
}

// read reads from the client and moves the deadline forward as data arrives.
func (b *body) read(p []byte) (int, error) {
	if b.n >= b.nextAt {
		// The error is ignored: all connections of the edge support deadlines,
		// those of tests may not.
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

// received returns how many bytes were read from the client.
func (b *body) received() int64 {
	if b == nil {
		return 0
	}
	return b.n
}

// readError marks an error of the client's connection, as opposed to one of the memory
// account.
type readError struct{ err error }

// Error implements error.
func (e *readError) Error() string { return "read request body: " + e.err.Error() }

// Unwrap returns the connection's error.
func (e *readError) Unwrap() error { return e.err }

type readFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readFunc) Read(p []byte) (int, error) { return f(p) }
