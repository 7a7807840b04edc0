package memory

import (
	"context"
	"sync"
	"sync/atomic"
)

// step is by how many bytes a holding takes from the account, so that requests
// that take a little often do not meet at its lock.
const step = 64 << 10

// Holding is what one request holds. A nil Holding holds anything: that of a call
// that nobody accounts for. It is safe for concurrent use.
type Holding struct {
	account *Account
	req     Request

	mu    sync.Mutex
	used  int64                   // by the request
	end   context.CancelCauseFunc // nil: cannot be ended
	ended error

	held atomic.Int64 // taken from the account; changed under mu
}

// Take adds n bytes to what the request holds, before it has them. An error is a
// *limits.Exceeded, a *TooLargeError, ErrFull or ErrEnded; then nothing was added.
func (h *Holding) Take(n int64) error {
	if h == nil || n <= 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		return h.ended
	}
	held := h.held.Load()
	if missing := h.used + n - held; missing > 0 {
		got := (missing + step - 1) / step * step
		err := h.account.take(h, got, held)
		if err != nil && got > missing { // near the limit every byte counts
			got = missing
			err = h.account.take(h, got, held)
		}
		if err != nil {
			return err
		}
		h.held.Store(held + got)
	}
	h.used += n
	return nil
}

// Raise makes the request hold at least so many bytes.
func (h *Holding) Raise(to int64) error {
	if h == nil {
		return nil
	}
	return h.Take(to - h.Used())
}

// Used is how many bytes the request holds.
func (h *Holding) Used() int64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.used
}

// Most is what the request could hold if it were the only one; 0 is no limit.
func (h *Holding) Most() int64 {
	if h == nil {
		return 0
	}
	return h.account.mostFor(h.req)
}

// Give takes n bytes off what the request holds. They are kept for what it takes
// next, but for more than a few steps.
func (h *Holding) Give(n int64) {
	if h == nil || n <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = max(h.used-n, 0)
	held := h.held.Load()
	if spare := held - h.used; spare > 4*step {
		h.release(spare - step)
	}
}

// Close gives everything back. Nothing can be taken afterwards. It may be called
// more than once.
func (h *Holding) Close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended = errClosed
	}
	h.used = 0
	h.release(h.held.Load())
}

// release gives n bytes back to the account. The caller holds h.mu.
func (h *Holding) release(n int64) {
	left := h.held.Load() - n
	h.held.Store(left)
	h.account.give(h, n, left)
}

// bytes is what was taken from the account. It does not wait.
func (h *Holding) bytes() int64 { return h.held.Load() }

// OnEnd says what ends the request when its memory is needed. The cause that it is
// called with is ErrEnded.
func (h *Holding) OnEnd(end context.CancelCauseFunc) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = end
}

// finish ends the request, and reports whether it was not at its end before.
func (h *Holding) finish(cause error) bool {
	h.mu.Lock()
	if h.ended != nil {
		h.mu.Unlock()
		return false
	}
	h.ended = cause
	end := h.end
	h.mu.Unlock()
	if end != nil {
		end(cause)
	}
	return true
}

type contextKey struct{}

// NewContext returns a context that carries a holding.
func NewContext(ctx context.Context, h *Holding) context.Context {
	return context.WithValue(ctx, contextKey{}, h)
}

// FromContext returns the holding of a context; nil without one.
func FromContext(ctx context.Context) *Holding {
	h, _ := ctx.Value(contextKey{}).(*Holding)
	return h
}
