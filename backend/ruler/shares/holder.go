// Package shares divides the rule groups between rulers. Each share is a lease in the row
// store: a Holder takes, renews and releases the shares of one ruler, and a Fence rejects
// writes of a ruler that is no longer the holder. docs/ruler.md describes the protocol.
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
	// pollInterval is the interval at which rows are read and leases are renewed.
	pollInterval = 2 * time.Second
	// leaseLife is the time after the start of a successful renewal during which the holder may write.
	leaseLife = 8 * time.Second
	// takeAfter is the time without a change of a row after which another ruler takes the share.
	// It is longer than leaseLife because clocks run at slightly different speeds.
	takeAfter = leaseLife + 2*time.Second
	// claimWithin is the time within which the owner of a share without a holder must take it.
	// Otherwise the other rulers suspect that the owner has stopped.
	claimWithin = 3 * pollInterval
	// suspicion is the time for which a ruler that appears to have stopped owns no shares,
	// although it is still in the ring.
	suspicion = time.Minute
	// callTimeout is the timeout of a call of the row store. It is a fraction of leaseLife, so that
	// a lease can still be renewed after a call that hangs.
	callTimeout = 2 * time.Second
	// parallel is the default number of concurrent calls of the row store.
	parallel = 16
)

// Forever is the idle time of a share that nobody has held before.
const Forever = time.Duration(math.MaxInt64)

// Store reads and writes the rows of shares. index.Shares implements it.
type Store interface {
	ReadAll(ctx context.Context, count int) (shares []schema.Share, corrupt map[int]error, err error)
	Read(ctx context.Context, share int) (schema.Share, error)
	Take(ctx context.Context, share int, old schema.Share, holder string, until int64) (next schema.Share, held bool, err error)
	Renew(ctx context.Context, share int, old schema.Share, until int64) (next schema.Share, held bool, err error)
	Release(ctx context.Context, share int, old schema.Share, now int64) (next schema.Share, held bool, err error)
}

// Events is notified of the shares that a Holder gains and loses. Its methods must return quickly.
type Events interface {
	// Gained is called for a share that the ruler holds from now on. idle is the time for which
	// the share had no holder before.
	Gained(share int, number uint64, idle time.Duration)
	// Lost is called for a share for which no more evaluations may begin. Evaluations in progress
	// may continue while the lease is valid, which Lease reports. When they have ended, `ended`
	// must be called; the share is then released.
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
	Parallel   int              // maximum number of concurrent calls of the store; default 16
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
	suspects map[string]time.Duration // end of the suspicion, by instance
	retired  bool
}

// share is the state of one share in a Holder.
type share struct {
	row     schema.Share  // the row as it was last read or written
	known   bool          // whether the row was read
	seen    time.Duration // time at which this content of the row was first read
	corrupt bool
	held    bool          // set from Gained until the end of the lease or the release
	until   time.Duration // end of the lease, while held
	leaving bool          // whether Lost was called while the lease was valid
	ended   bool          // whether all evaluations have ended, while leaving
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

// Run takes and renews shares until the context ends. It does not release them at the end: the
// caller waits for evaluations in progress and then calls Release.
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

// Retire makes the Holder take no more shares, because the ruler is stopping. It still renews and releases the shares that
// it holds.
func (h *Holder) Retire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retired = true
}

// Lease returns the number under which the ruler holds a share, and the end of the lease on the clock
// Options.Running. ok is false if the ruler does not hold the share and must not write.
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

// lose gives up a share whose lease is no longer valid.
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

// read reads all rows, and updates the state of shares and rulers.
func (h *Holder) read(ctx context.Context, e Events, rulers []string, ringErr error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rows, corrupt, err := h.opts.Store.ReadAll(call, h.opts.Count)
	now := h.opts.Running() // taken after the read, so that every value was current at or before this time
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

// note records a row that was read. It reports whether this ruler holds the share although the row
// has another holder. h.mu is locked.
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
