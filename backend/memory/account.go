// Package memory is the account of the memory of one process: how much there is
// (the limit of its container or machine), how it is divided between the parts
// that hold much of it, and who holds how much of the part that requests share.
//
// A request takes bytes from the account before it holds them and gives all of
// them back at its end. Nobody waits for bytes: they are there, or the request
// ends with an error that says whose limit was reached. docs/memory.md has the
// rules.
package memory

import (
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// Errors of Take that are not the request's own fault.
var (
	// ErrFull is the error of a request for which the process has no memory free.
	// The same request may succeed later.
	ErrFull = errors.New("memory for requests is in use")
	// ErrEnded is the error of the request that was ended since it held most when
	// the process came near the end of its memory.
	ErrEnded = errors.New("ended: the process was nearly out of memory, and this request held most of it")

	// errClosed is the error of a request that goes on after its end.
	errClosed = errors.New("memory taken after the request's end")
)

// TooLargeError is the error of a write that alone needs more than a tenant may
// ever hold in this process.
type TooLargeError struct {
	Need, Most int64 // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("request needs %d bytes of memory or more, at most %d can be had; send fewer samples per request", e.Need, e.Most)
}

// reservePart is the part of the account that only internal requests may use.
const reservePart = 8

// Account has the bytes that the requests of one process may hold together. A
// nil Account has no limit. It is safe for concurrent use.
type Account struct {
	limit, reserve int64

	mu       sync.Mutex
	used     int64 // by tenants
	internal int64 // by internal requests
	tenants  map[tenant.ID]*share
	holdings map[*Holding]struct{}

	rejected *prometheus.CounterVec
	ended    prometheus.Counter
}

// share is what one tenant's requests hold.
type share struct {
	held     int64
	holdings int
}

// NewAccount returns an account of so many bytes; 0 is no limit.
func NewAccount(bytes int64, reg prometheus.Registerer) *Account {
	auto := promauto.With(reg)
	a := &Account{
		limit: bytes, reserve: bytes / reservePart,
		tenants: map[tenant.ID]*share{}, holdings: map[*Holding]struct{}{},
		rejected: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_memory_rejected_requests_total",
			Help: "Requests that could not have the memory they asked for, by whose limit it was: tenant, process."}, []string{"limit"}),
		ended: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_memory_ended_requests_total",
			Help: "Requests that were ended because they held most when the process was nearly out of memory."}),
	}
	for _, limit := range []string{"tenant", "process"} {
		a.rejected.WithLabelValues(limit)
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_memory_requests_bytes", Help: "Bytes that requests under way hold."},
		func() float64 { return float64(a.Used()) })
	auto.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "pallium_memory_requests_limit_bytes", Help: "Bytes that requests may hold together; 0 is no limit."},
		func() float64 { return float64(bytes) })
	return a
}

// Used is how many bytes all requests hold together.
func (a *Account) Used() int64 {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used + a.internal
}

// Most is how many bytes one tenant may hold while no other holds any; 0 is no
// limit.
func (a *Account) Most() int64 {
	if a == nil {
		return 0
	}
	return (a.limit - a.reserve) / 2
}

// mostFor is how many bytes a request could hold if it were the only one; 0 is no
// limit.
func (a *Account) mostFor(r Request) int64 {
	most := a.Most()
	if r.Limit > 0 && (most <= 0 || r.Limit < most) {
		return r.Limit
	}
	return most
}

// Request says for whom bytes are held.
type Request struct {
	Tenant tenant.ID
	// Limit is the tenant's own limit of bytes, for all its requests together; 0 is
	// none but the account's.
	Limit int64
	// Write is set for what a sender repeats until it is accepted: what may work
	// later is never answered as the request's fault.
	Write bool
	// Internal is set for what the process does on its own account. It has no
	// tenant's limit and may use the reserve.
	Internal bool
}

// Begin returns a holding of no bytes. Close ends it.
func (a *Account) Begin(r Request) *Holding { return &Holding{account: a, req: r} }

// take moves n bytes into a holding that has held bytes.
func (a *Account) take(h *Holding, n, held int64) error {
	if a == nil || a.limit <= 0 && h.req.Limit <= 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if h.req.Internal {
		if a.limit > 0 && a.used+a.internal+n > a.limit {
			a.rejected.WithLabelValues("process").Inc()
			return ErrFull
		}
		a.internal += n
		return nil
	}
	s := a.tenants[h.req.Tenant]
	if s == nil {
		s = &share{}
	}
	if err := a.admit(h, s, n, held); err != nil {
		return err
	}
	if held == 0 { // its first bytes
		s.holdings++
		a.tenants[h.req.Tenant] = s
		a.holdings[h] = struct{}{}
	}
	s.held += n
	a.used += n
	return nil
}

// admit reports whether a tenant with a share may have n bytes more for a
// request that holds some already. The caller holds a.mu.
func (a *Account) admit(h *Holding, s *share, n, held int64) error {
	most := a.mostFor(h.req)
	switch {
	case most > 0 && held+n > most:
		a.rejected.WithLabelValues("tenant").Inc()
		if h.req.Write {
			return &TooLargeError{Need: held + n, Most: most}
		}
		return exceeded(h.req.Limit, most, held+n)
	case h.req.Limit > 0 && s.held+n > h.req.Limit:
		a.rejected.WithLabelValues("tenant").Inc()
		if h.req.Write {
			return fmt.Errorf("%w by other requests of the tenant", ErrFull)
		}
		return exceeded(h.req.Limit, h.req.Limit, s.held+n).With(", with the tenant's other requests under way")
	case a.limit <= 0:
		return nil
	}
	// What a tenant holds may not exceed what is left free: one tenant gets half,
	// two a third each, and something is always free for one that comes new.
	free := a.limit - a.reserve - a.used
	if s.held+n > free-n || a.used+a.internal+n > a.limit {
		a.rejected.WithLabelValues("process").Inc()
		return ErrFull
	}
	return nil
}

// exceeded is the error of a request at most bytes, which is the tenant's own limit
// unless the process allows less.
func exceeded(own, most, use int64) *limits.Exceeded {
	e := limits.MaxMemoryBytes.ExceededAt(most, use)
	if own != most {
		e.Limit += " (as much as this process allows)"
	}
	return e
}

// give takes n bytes back; left is what the holding still has.
func (a *Account) give(h *Holding, n, left int64) {
	if a == nil || n == 0 || a.limit <= 0 && h.req.Limit <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if h.req.Internal {
		a.internal -= n
		return
	}
	s := a.tenants[h.req.Tenant]
	s.held -= n
	a.used -= n
	if left > 0 {
		return
	}
	delete(a.holdings, h)
	if s.holdings--; s.holdings == 0 {
		delete(a.tenants, h.req.Tenant)
	}
}

// EndHeaviest ends the read that holds most of the tenant that holds most, if it
// holds at least the given bytes, and returns the tenant and what it holds; 0 when
// there is none. One that was ended but still holds its bytes counts: its memory is
// about to be free.
func (a *Account) EndHeaviest(least int64) (tenant.ID, int64) {
	a.mu.Lock()
	reads := map[tenant.ID]int64{}
	for h := range a.holdings {
		if !h.req.Write {
			reads[h.req.Tenant] += h.bytes()
		}
	}
	var heaviest *Holding
	most, of := int64(0), int64(0)
	for h := range a.holdings {
		held, all := h.bytes(), reads[h.req.Tenant]
		if h.req.Write || held < least {
			continue
		}
		if all > of || all == of && held > most {
			heaviest, most, of = h, held, all
		}
	}
	a.mu.Unlock()
	if heaviest == nil {
		return "", 0
	}
	if heaviest.finish(ErrEnded) {
		a.ended.Inc()
	}
	return heaviest.req.Tenant, most
}
