package conn

import (
	"errors"
	"io"
	"net/http"
	"strconv"
)

// ErrTooLong is the error of an answer that is too long to be kept.
var ErrTooLong = errors.New("the answer is too long for HTTP/1.0")

// Whole is the answer to a request of HTTP/1.0. That protocol ends an answer of
// unknown length by closing the connection, so one that broke off looks whole:
// all of it is kept, and sent with its length when it is complete.
type Whole struct {
	w      http.ResponseWriter
	most   int64
	status int
	buffer Buffer
}

// NewWhole returns an answer of at most so many bytes.
func NewWhole(w http.ResponseWriter, most int64) *Whole { return &Whole{w: w, most: most} }

// Charge has the memory of the answer taken from now on.
func (w *Whole) Charge(take func(n int64) error) { w.buffer.Take = take }

// Header implements http.ResponseWriter.
func (w *Whole) Header() http.Header { return w.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (w *Whole) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter. Its error is ErrTooLong or that of the
// memory's account.
func (w *Whole) Write(p []byte) (int, error) {
	if w.buffer.Len()+int64(len(p)) > w.most {
		return 0, ErrTooLong
	}
	return w.buffer.Write(p)
}

// Unwrap is for http.ResponseController. Flush does nothing, so that nothing is
// sent before the answer is complete.
func (w *Whole) Unwrap() http.ResponseWriter { return w.w }

// Flush implements http.Flusher.
func (w *Whole) Flush() {}

// Reset drops what was written, so that another answer can take its place.
func (w *Whole) Reset() { w.status, w.buffer = 0, Buffer{} }

// Send sends the answer, after which the server closes the connection. If it cannot
// be sent to its end, the connection is reset.
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
	_, _ = io.Copy(w.w, w.buffer.Reader()) // a failure was noticed by the connection
}
