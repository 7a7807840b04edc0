package memory

import (
	"context"
	"sync"
	"sync/atomic"
)

// step is the number of bytes that a holding takes from the account at once, so
// that requests that often take a few bytes do not contend for its lock.
const step = 64 << 10

// Holding is the memory that one request holds. A nil Holding has no limit and
// counts nothing. It is safe for concurrent use.
type Holding struct {
	account *Account
	req     Request
	whole   *Holding // the holding this is a part of; nil = none

	mu    sync.Mutex
	used  int64                   // used by the request
	end   context.CancelCauseFunc // cancels the request; nil = it cannot be ended
	ended error

	held  atomic.Int64 // taken from the account; written with mu held
	picks int          // how often EndHeaviest has picked it; guarded by account.mu
}

// Take adds n bytes to the holding. It must be called before the memory is
// allocated. On any error nothing was added. The error is a *limits.Exceeded, a
// *TooLargeError, ErrFull, ErrEnded or, after Close, an internal error.
func (h *Holding) Take(n int64) error {
	if h == nil || n <= 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended != nil {
		return h.ended
	}
	if h.whole != nil {
		err := h.whole.Take(n)
		if err == nil {
			h.used += n
		}
		return err
	}
	held := h.held.Load()
	if missing := h.used + n - held; missing > 0 {
		// takes whole steps, or only the missing bytes near the limit
		got, err := h.account.take(h, (missing+step-1)/step*step, missing, held)
		if err != nil {
			return err
		}
		h.held.Store(held + got)
	}
	h.used += n
	return nil
}

// Raise increases the used bytes to n, if they are fewer. Its errors are the errors of Take.
func (h *Holding) Raise(n int64) error {
	if h == nil {
		return nil
	}
	return h.Take(n - h.Used())
}

// Used returns the bytes that the request uses.
func (h *Holding) Used() int64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.used
}

// Most returns the bytes that the request may hold if it is the only one; 0 = no
// limit.
func (h *Holding) Most() int64 {
	if h == nil {
		return 0
	}
	if h.whole != nil {
		return h.whole.Most()
	}
	return h.account.mostFor(h.req)
}

// Part returns a holding for a part of the request's work. Everything that the part
// takes is counted in h too. Close of the part subtracts these bytes from h, and the
// request continues.
func (h *Holding) Part() *Holding {
	if h == nil {
		return nil
	}
	return &Holding{account: h.account, req: h.req, whole: h}
}

// Another returns an empty holding of the same kind of request, for work that may outlive
// the request of h. The caller must call Close.
func (h *Holding) Another() *Holding {
	if h == nil {
		return nil
	}
	return h.account.Begin(h.req)
}

// Give subtracts n bytes from the used bytes. If more than 4 steps are then unused, all
// but one step is returned to the account; that step stays for the next Take.
func (h *Holding) Give(n int64) {
	if h == nil || n <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.whole != nil {
		n = min(n, h.used)
		h.used -= n
		h.whole.Give(n)
		return
	}
	h.used = max(h.used-n, 0)
	held := h.held.Load()
	if spare := held - h.used; spare > 4*step {
		h.release(spare - step)
	}
}

// Close returns all bytes to the account. Take fails afterwards. Close may be
// called more than once.
func (h *Holding) Close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.ended = errClosed
	}
	if h.whole != nil {
		h.whole.Give(h.used)
		h.used = 0
		return
	}
	h.used = 0
	h.release(h.held.Load())
}

// release returns n bytes to the account. The caller holds h.mu.
func (h *Holding) release(n int64) {
	left := h.held.Load() - n
	h.held.Store(left)
	h.account.give(h, n, left)
}

// bytes returns the bytes taken from the account. It acquires no lock.
func (h *Holding) bytes() int64 { return h.held.Load() }

// OnEnd sets the function that cancels the request if its memory is needed. The
// function is called with the cause ErrEnded.
func (h *Holding) OnEnd(end context.CancelCauseFunc) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end = end
}

// finish ends the request, and reports whether it had not ended before.
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

// NewContext returns a context with a holding.
func NewContext(ctx context.Context, h *Holding) context.Context {
	return context.WithValue(ctx, contextKey{}, h)
}

// FromContext returns the context's holding, or nil.
func FromContext(ctx context.Context) *Holding {
	h, _ := ctx.Value(contextKey{}).(*Holding)
	return h
}
