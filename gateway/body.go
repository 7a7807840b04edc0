package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palliumhq/pallium/gateway/conn"
)

const deadlineStep = 256 << 10 // bytes between two settings of the deadline

// body is a client's request body on its way to the backend: passed through
// unbuffered, but bounded in size and in time, and counted. The first failure
// is kept, since a backend may report it in words of its own.
type body struct {
	limit int64
	rc    *http.ResponseController

	reading atomic.Bool
	n       atomic.Int64
	failed  atomic.Pointer[refusal]

	mu     sync.Mutex    // held during Read
	src    io.ReadCloser // over http.MaxBytesReader
	start  time.Time
	nextAt int64 // bytes at which the deadline is moved
	closed bool
	ended  bool // the source said EOF
}

func newBody(w http.ResponseWriter, r *http.Request, limit int64) *body {
	return &body{
		limit: limit,
		rc:    http.NewResponseController(w),
		src:   http.MaxBytesReader(w, r.Body, limit),
		start: time.Now(),
	}
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	b.reading.Store(true)
	defer b.reading.Store(false)
	sofar := b.n.Load()
	if sofar >= b.nextAt {
		// Not every connection has deadlines; those of the edge do.
		_ = b.rc.SetReadDeadline(b.start.Add(conn.BodyGrace + time.Duration(sofar/conn.BodyRate)*time.Second))
		b.nextAt = sofar + deadlineStep
	}
	n, err := b.src.Read(p)
	b.n.Add(int64(n))
	switch {
	case err == io.EOF:
		b.ended = true
		// The connection is now watched for the client's going away, which
		// an expired deadline would be mistaken for while the backend works.
		_ = b.rc.SetReadDeadline(time.Time{})
	case err != nil:
		// The deadline stays: whoever reads the rest must not wait for ever.
		b.fail(err)
	}
	return n, err
}

func (b *body) fail(err error) {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		b.failed.CompareAndSwap(nil, tooLarge(b.limit, fmt.Sprintf("the request body has more than %d bytes", b.limit)))
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.failed.CompareAndSwap(nil, &refusal{status: http.StatusRequestTimeout, reason: "body_slow",
			text: "the request body arrived too slowly"})
	default:
		b.failed.CompareAndSwap(nil, badRequest("body_broken", "the request body could not be read to its end"))
	}
}

// Close ends reading, also a Read that waits for the client. After it nothing
// touches the connection, which may serve another request by then.
func (b *body) Close() error {
	if b.reading.Load() {
		_ = b.rc.SetReadDeadline(time.Unix(1, 0))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	if !b.ended {
		// The server reads on a little, to keep the connection; not for long.
		_ = b.rc.SetReadDeadline(time.Now().Add(conn.BodyGrace))
	}
	return b.src.Close()
}

// state is how many bytes were read, and what went wrong, if anything.
func (b *body) state() (int64, *refusal) {
	if b == nil {
		return 0, nil
	}
	return b.n.Load(), b.failed.Load()
}
