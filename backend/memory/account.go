// Package memory accounts for the memory of one process: how much there is (the
// limit of its container or machine), how it is divided between the parts that use
// most of it, and which requests hold how much of the part that they share.
//
// A request takes bytes from the account before it allocates them, and releases all
// of them at its end. Requests never wait for bytes: if there are none, the request
// ends with an error that names the limit that was reached. docs/memory.md has the
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

// Errors of Take, in addition to *limits.Exceeded and *TooLargeError.
var (
	// ErrFull is returned if the process has no memory for a request, and for a write
	// request if other requests of the tenant use up its limit. The same request may
	// succeed later.
	ErrFull = errors.New("memory for requests is exhausted")
	// ErrEnded is the error of a read that EndHeaviest ended. The same read would
	// probably be ended again.
	ErrEnded = errors.New("the query was ended: the process was nearly out of memory, and this query held most of it; " +
		"select fewer series, a shorter range or a longer step")
	// ErrEndedElsewhere is ErrEnded of a peer to which this process sent a request. A
	// replica of the peer may still respond.
	ErrEndedElsewhere = fmt.Errorf("another process: %w", ErrEnded)

	// errClosed is the error of a request that takes memory after its end.
	errClosed = errors.New("internal error: memory taken after the request ended")
)

// TooLargeError is the error of a write request that alone needs more memory than
// its tenant may ever hold in this process.
type TooLargeError struct {
	Need, Most int64 // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("request needs at least %d bytes of memory, the maximum is %d; send fewer samples per request", e.Need, e.Most)
}

// reservePart is the divisor for the part of the account that only internal requests
// may use.
const reservePart = 8

// Account limits the bytes that all requests of one process hold. A nil Account has
// no limit. It is safe for concurrent use.
type Account struct {
	limit, reserve int64

	mu       sync.Mutex
	used     int64 // held by requests of tenants
	internal int64 // held by internal requests
	tenants  map[tenant.ID]*share
	holdings map[*Holding]struct{}

	rejected *prometheus.CounterVec
	ended    prometheus.Counter
}

// share is the memory that one tenant's requests hold.
type share struct {
	held     int64
	holdings int
}

// NewAccount returns an account with a limit of the given number of bytes; 0 = no
// limit.
func NewAccount(bytes int64, reg prometheus.Registerer) *Account {
	auto := promauto.With(reg)
	a := &Account{
		limit: bytes, reserve: bytes / reservePart,
		tenants: map[tenant.ID]*share{}, holdings: map[*Holding]struct{}{},
		rejected: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_memory_rejected_requests_total",
			Help: "Requests rejected for lack of memory, by the limit that was reached: tenant, process."}, []string{"limit"}),
		ended: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_memory_ended_requests_total",
			Help: "Reads ended when the process was nearly out of memory: each time, the largest read of the tenant whose reads used the most " +
				"memory."}),
	}
	for _, limit := range []string{"tenant", "process"} {
		a.rejected.WithLabelValues(limit)
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_memory_requests_bytes", Help: "Bytes held by requests in progress."},
		func() float64 { return float64(a.Used()) })
	auto.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "pallium_memory_requests_limit_bytes", Help: "Limit of the bytes held by all requests; 0 = no limit."},
		func() float64 { return float64(bytes) })
	return a
}

// Used returns the bytes that all requests hold.
func (a *Account) Used() int64 {
	if a == nil {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used + a.internal
}

// Most returns the bytes that one tenant may hold while no other tenant holds any;
// 0 = no limit.
func (a *Account) Most() int64 {
	if a == nil {
		return 0
	}
	return (a.limit - a.reserve) / 2
}

// mostFor returns the bytes that a request may hold if it is the only one; 0 = no
// limit.
func (a *Account) mostFor(r Request) int64 {
	most := a.Most()
	if r.Limit > 0 && (most <= 0 || r.Limit < most) {
		return r.Limit
	}
	return most
}

// Request describes the request that holds memory.
type Request struct {
	Tenant tenant.ID
	// Limit is the tenant's limit of bytes for all its requests; 0 = only the
	// account's limit.
	Limit int64
	// Write is set for requests that senders retry until they are accepted: an error
	// that may be temporary must not blame the request.
	Write bool
	// Internal is set for work of the process itself. It has no tenant's limit and
	// may use the reserve.
	Internal bool
}

// Begin returns an empty holding. The caller must call Close.
func (a *Account) Begin(r Request) *Holding { return &Holding{account: a, req: r} }

// take adds n bytes to a holding, or only `least` bytes if n would exceed a limit. `held` is the number of bytes
// that the holding has already. It returns the number of bytes added. An error counts as one rejection.
func (a *Account) take(h *Holding, n, least, held int64) (int64, error) {
	if a == nil || a.limit <= 0 && h.req.Limit <= 0 {
		return n, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.tenants[h.req.Tenant]
	if s == nil {
		s = &share{}
	}
	limit, err := a.admit(h, s, n, held)
	if err != nil && least < n {
		n = least
		limit, err = a.admit(h, s, n, held)
	}
	if err != nil {
		a.rejected.WithLabelValues(limit).Inc()
		return 0, err
	}
	if h.req.Internal {
		a.internal += n
		return n, nil
	}
	if held == 0 { // the holding's first bytes
		s.holdings++
		a.tenants[h.req.Tenant] = s
		a.holdings[h] = struct{}{}
	}
	s.held += n
	a.used += n
	return n, nil
}

// admit checks whether a tenant may take n more bytes for a request that already has
// `held` bytes. With an error, it returns the limit that was reached, as a label value of
// the metric of rejections. a.mu must be locked.
func (a *Account) admit(h *Holding, s *share, n, held int64) (limit string, err error) {
	if h.req.Internal {
		if a.limit > 0 && a.used+a.internal+n > a.limit {
			return "process", ErrFull
		}
		return "", nil
	}
	most := a.mostFor(h.req)
	switch {
	case most > 0 && held+n > most:
		if h.req.Write {
			return "tenant", &TooLargeError{Need: held + n, Most: most}
		}
		return "tenant", exceeded(h.req.Limit, most, held+n)
	case h.req.Limit > 0 && s.held+n > h.req.Limit:
		if h.req.Write {
			return "tenant", fmt.Errorf("%w: used by other requests of the tenant", ErrFull)
		}
		return "tenant", exceeded(h.req.Limit, h.req.Limit, s.held+n).With(", including the tenant's other requests in progress")
	case a.limit <= 0:
		return "", nil
	}
	// A tenant may hold at most as many bytes as are left free: one tenant gets half,
	// two tenants a third each, and some memory is always free for another tenant.
	free := a.limit - a.reserve - a.used
	if s.held+n > free-n || a.used+a.internal+n > a.limit {
		return "process", ErrFull
	}
	return "", nil
}

// exceeded returns the error of a request that exceeds most, which is the tenant's
// own limit unless the process's limit is lower.
func exceeded(own, most, use int64) *limits.Exceeded {
	e := limits.MaxMemoryBytes.ExceededAt(most, use)
	if own != most {
		e.Limit += " (the limit of this process)"
	}
	return e
}

// give returns n bytes to the account; `left` is the number of bytes that the holding still has.
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

// mostPicks is how many times EndHeaviest picks the same read; the first time it ends it.
const mostPicks = 3

// EndHeaviest ends one of the reads that hold at least the given number of bytes: the
// largest of the tenant whose reads hold most. It returns the tenant and the bytes
// held, or 0 if there is no such read. A read that was ended but still holds its bytes
// is picked mostPicks times in total, because its memory is about to be freed. Then
// another read is ended: the first one may be writing its response to a slow client.
func (a *Account) EndHeaviest(least int64) (tenant.ID, int64) {
	a.mu.Lock()
	reads := map[tenant.ID]int64{}
	for h := range a.holdings {
		if !h.req.Write && h.picks < mostPicks {
			reads[h.req.Tenant] += h.bytes()
		}
	}
	var heaviest *Holding
	most, of := int64(0), int64(0)
	for h := range a.holdings {
		held, all := h.bytes(), reads[h.req.Tenant]
		if h.req.Write || h.picks >= mostPicks || held < least {
			continue
		}
		if all > of || all == of && held > most {
			heaviest, most, of = h, held, all
		}
	}
	if heaviest != nil {
		heaviest.picks++
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
