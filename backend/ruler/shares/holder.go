// Package shares divides the rule groups between rulers. Each share is a lease in the row
// store: a Holder takes, renews and releases the shares of one ruler, and a Fence rejects
// writes of a ruler that is no longer the holder. docs/ruler.md has the protocol.
package shares

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/schema"
)

const (
	// pollInterval is how often the rows are read and the leases renewed.
	pollInterval = 2 * time.Second
	// leaseLife is how long a holder may write after the start of a successful renewal.
	leaseLife = 8 * time.Second
	// takeAfter is how long a row must not have changed before another ruler takes the share.
	// It is longer than leaseLife, so that clocks may run at slightly different speeds.
	takeAfter = leaseLife + 2*time.Second
	// claimWithin is how long the owner of a share without a holder may wait before the other
	// rulers suspect it.
	claimWithin = 3 * pollInterval
	// suspicion is how long a ruler that appears to be stopped is not an owner, although it
	// is still in the ring.
	suspicion = time.Minute
	// callTimeout limits a call of the row store, so that a call that hangs costs only a part
	// of the lease.
	callTimeout = 2 * time.Second
	// parallel is the default number of concurrent calls of the row store.
	parallel = 16
)

// Forever is the idle time of a share that nobody has held before.
const Forever = time.Duration(math.MaxInt64)

// Store gives access to the rows of shares; index.Shares implements it.
type Store interface {
	ReadAll(ctx context.Context, count int) (shares []schema.Share, corrupt map[int]error, err error)
	Read(ctx context.Context, share int) (schema.Share, error)
	Take(ctx context.Context, share int, old schema.Share, holder string, until int64) (next schema.Share, held bool, err error)
	Renew(ctx context.Context, share int, old schema.Share, until int64) (next schema.Share, held bool, err error)
	Release(ctx context.Context, share int, old schema.Share, now int64) (next schema.Share, held bool, err error)
}

// Events is told which shares a Holder gains and loses. Its methods must return quickly.
type Events interface {
	// Gained is called for a share that the ruler holds from now on. idle is how long it had
	// no holder before.
	Gained(share int, number uint64, idle time.Duration)
	// Lost is called for a share whose groups may not be evaluated again. If the lease is
	// still valid, so that evaluations in progress may end, the share is released once ended
	// was called. Lease shows whether it is.
	Lost(share int, ended func())
}

// Options configure a Holder.
type Options struct {
	Store Store
	Count int // number of shares
	// ID identifies the ruler: its instance in the ring, a slash, and a random incarnation,
	// which differs for every start of the process.
	ID string
	// Rulers returns the instances of the rulers in the ring that are alive.
	Rulers func(context.Context) ([]string, error)
	// Exclusive is set if the lock of the stores guarantees that no other process is
	// running. Shares of an earlier process are then taken at once.
	Exclusive bool
	// Running is a monotonic clock that continues while the machine is suspended.
	Running    func() time.Duration
	Now        func() time.Time // default time.Now
	Parallel   int              // concurrent calls of the store; default 16
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Holder takes and renews the shares that a ruler owns. It is safe for concurrent use.
type Holder struct {
	opts     Options
	instance string
	metrics  metrics

	mu       sync.Mutex
	shares   []share
	rulers   []string
	suspects map[string]time.Duration // when the suspicion of an instance ends
	retired  bool
}

// share is what a Holder knows about one share.
type share struct {
	row     schema.Share  // as it was last read or written
	known   bool          // row was read
	seen    time.Duration // when row was first read
	corrupt bool
	held    bool          // from Gained to Lost or the release
	until   time.Duration // end of the lease, while held
	leaving bool          // Lost was called while the lease was valid
	ended   bool          // no evaluation is in progress any more, while leaving
}

// New returns a Holder without shares.
func New(o Options) *Holder {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Parallel == 0 {
		o.Parallel = parallel
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Holder{opts: o, instance: instanceOf(o.ID), shares: make([]share, o.Count), suspects: map[string]time.Duration{}}
	h.metrics = newMetrics(o.Registerer, h)
	return h
}

// instanceOf returns the instance of a holder's ID.
func instanceOf(id string) string {
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		return id[:i]
	}
	return id
}

// Run takes and renews shares until the context ends. It keeps the shares then: the caller
// waits for evaluations in progress and calls Release.
func (h *Holder) Run(ctx context.Context, e Events) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		h.poll(ctx, e)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Retire makes the Holder take no more shares, because the ruler will evaluate none of their groups. It still renews
// and releases those that it has.
func (h *Holder) Retire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retired = true
}

// Lease returns the number under which the ruler holds a share and when the lease ends by
// Options.Running. ok is false if the ruler does not hold it and must not write.
func (h *Holder) Lease(share int) (number uint64, deadline time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.shares[share]
	return s.row.Number, s.until, s.held && h.opts.Running() < s.until
}

// Held returns the number of shares held.
func (h *Holder) Held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for i := range h.shares {
		if h.shares[i].held {
			n++
		}
	}
	return n
}

// poll reads all rows once, and takes, renews and releases shares.
func (h *Holder) poll(ctx context.Context, e Events) {
	h.expire(e)
	rulers, err := h.opts.Rulers(ctx)
	if err != nil && ctx.Err() == nil {
		h.opts.Logger.Warn("could not read the ring of rulers: keeping the last known rulers", "err", err)
	}
	h.read(ctx, e, rulers, err)
	var g errgroup.Group
	g.SetLimit(h.opts.Parallel)
	for i := range h.shares {
		a := h.decide(i, e)
		if a == nothing {
			continue
		}
		if h.opts.Parallel == 1 {
			h.act(ctx, i, a, e)
			continue
		}
		g.Go(func() error { h.act(ctx, i, a, e); return nil })
	}
	_ = g.Wait()
	h.expire(e)
}

// expire gives up the shares whose lease has ended.
func (h *Holder) expire(e Events) {
	now := h.opts.Running()
	for i := range h.shares {
		h.mu.Lock()
		over := h.shares[i].held && now >= h.shares[i].until
		h.mu.Unlock()
		if over {
			h.lose(i, e, "the lease ended before it could be renewed")
		}
	}
}

// lose ends the holding of a share whose lease is not valid any more.
func (h *Holder) lose(i int, e Events, why string) {
	h.mu.Lock()
	s := &h.shares[i]
	told := s.leaving
	s.held, s.leaving, s.ended = false, false, false
	h.mu.Unlock()
	h.metrics.changes.WithLabelValues("lost").Inc()
	h.opts.Logger.Warn("lost a share of the rule groups", "share", i, "reason", why)
	if !told {
		e.Lost(i, func() {})
	}
}

// read reads all rows, and updates what is known about shares and rulers.
func (h *Holder) read(ctx context.Context, e Events, rulers []string, ringErr error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rows, corrupt, err := h.opts.Store.ReadAll(call, h.opts.Count)
	now := h.opts.Running() // after the read: every value was current at an earlier time
	var lost []int
	h.mu.Lock()
	if ringErr == nil {
		h.rulers = rulers
	}
	if err == nil {
		for i := range rows {
			if h.shares[i].corrupt = corrupt[i] != nil; !h.shares[i].corrupt && h.note(i, rows[i], now) {
				lost = append(lost, i)
			}
		}
		h.suspect(now)
	}
	h.mu.Unlock()
	for i, bad := range corrupt {
		h.opts.Logger.Error("the row of a share of the rule groups is corrupt: its groups are not evaluated", "share", i, "err", bad)
	}
	if err != nil && ctx.Err() == nil {
		h.metrics.failures.Inc()
		h.opts.Logger.Warn("could not read the shares of rule groups; retrying", "err", err)
	}
	for _, i := range lost {
		h.lose(i, e, "another ruler took it")
	}
}

// note records a row as read, and reports whether the share is held here but has another
// holder in the row. h.mu is locked.
func (h *Holder) note(i int, row schema.Share, now time.Duration) bool {
	s := &h.shares[i]
	if !s.known || row != s.row {
		if s.known {
			delete(h.suspects, instanceOf(row.Holder))
		}
		s.row, s.known, s.seen = row, true, now
	}
	return s.held && row.Holder != h.opts.ID
}
