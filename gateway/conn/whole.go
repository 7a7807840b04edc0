package conn

import (
	"errors"
	"io"
	"net/http"
	"strconv"
)

// ErrTooLong is returned for a response that is too long to be buffered.
var ErrTooLong = errors.New("response is too long for HTTP/1.0")

// Whole is the buffered response to an HTTP/1.0 client. That protocol ends a response of
// unknown length by closing the connection, so a truncated response would look complete.
// Whole buffers the response and sends it with its length when it is complete.
type Whole struct {
	w      http.ResponseWriter
	most   int64
	status int
	buffer Buffer
}

// NewWhole returns a buffered response of at most `most` bytes.
func NewWhole(w http.ResponseWriter, most int64) *Whole { return &Whole{w: w, most: most} }

// Charge reserves the memory of the response with `take` from now on.
func (w *Whole) Charge(take func(n int64) error) { w.buffer.Take = take }

// Header implements http.ResponseWriter.
func (w *Whole) Header() http.Header { return w.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (w *Whole) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter. Its error is ErrTooLong or that of the memory
// account.
func (w *Whole) Write(p []byte) (int, error) {
	if w.buffer.Len()+int64(len(p)) > w.most {
		return 0, ErrTooLong
	}
	return w.buffer.Write(p)
}

// Unwrap supports http.ResponseController.
func (w *Whole) Unwrap() http.ResponseWriter { return w.w }

// Flush implements http.Flusher. It does nothing, so that nothing is sent before the
// response is complete.
func (w *Whole) Flush() {}

// Reset drops the response written so far, so that another response can be written.
func (w *Whole) Reset() { w.status, w.buffer = 0, Buffer{} }

// Send sends the response; the server then closes the connection. If the response cannot be sent
// completely, the connection is reset.
func (w *Whole) Send() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	h := w.Header()
	h.Set("Connection", "close")
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		h.Del("Content-Length")
	} else {
		h.Set("Content-Length", strconv.FormatInt(w.buffer.Len(), 10))
	}
	w.w.WriteHeader(w.status)
	_, _ = io.Copy(w.w, w.buffer.Reader()) // if it fails, Write of the connection causes a reset
}
