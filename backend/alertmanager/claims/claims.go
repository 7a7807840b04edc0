// Package claims lets the replicas of a tenant's Alertmanager agree which of them sends a notification. Each
// notification (a group of alerts, a receiver and an integration) has a row in the row store, which a replica claims
// before it sends, and in which it records what was sent. docs/alertmanager.md has the protocol.
package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/schema"
)

const (
	// claimLife is how long a claim must not have changed before another replica takes it over.
	claimLife = 30 * time.Second
	// sendLife is how long a holder may send after the start of a successful renewal. It is shorter than claimLife, so
	// that clocks may run at different speeds.
	sendLife = claimLife - 5*time.Second
	// renewInterval is how often a claim is renewed, and renewAgain how soon after a failure.
	renewInterval = 8 * time.Second
	renewAgain    = time.Second
	// callTimeout limits a call of the row store.
	callTimeout = 3 * time.Second
	// unreachable is how long the row store must not have answered before replicas send without claims.
	unreachable = 10 * time.Second
	// positionDelay is how long a replica waits for each replica before it, when they send without claims: the
	// peer timeout of Alertmanager.
	positionDelay = 15 * time.Second
	// claimKept is for how long the row of a claim is kept at least. That of a holder that crashed would stay otherwise, if the
	// group never notifies again.
	claimKept = 24 * time.Hour
	// maxKnown is the number of notifications in memory above which they are forgotten sooner.
	maxKnown = 100_000
	// lingerTime is for how long a notification that is on its way may last after it was canceled.
	lingerTime = 10 * time.Second
	// learnTime is how long a replica needs at most to learn the state of alerts: senders repeat them every minute or so.
	learnTime = 2 * time.Minute
	// releaseTime limits the time in which a claim is given up, and recordTime that in which a flush waits until what
	// it sent is recorded. After it Run continues.
	releaseTime = 5 * time.Second
	recordTime  = 10 * time.Second
	// pollFirst and pollMost are how often a replica looks at a claim of another one.
	pollFirst = 250 * time.Millisecond
	pollMost  = 2 * time.Second
	// pollLate is instead of pollMost after a claim could have ended: who sends has a receiver that does not answer.
	pollLate = 8 * time.Second
	// earlySlack is how much earlier than the group interval another replica may flush.
	earlySlack = time.Second
)

var (
	// ErrEarly is returned if another replica has sent a notification of the group less than one group interval ago.
	ErrEarly = errors.New("another replica notified about this group less than group_interval ago; trying again at the next flush")
	// ErrFailed is returned if the replica that held the claim could not send the same alerts.
	ErrFailed = errors.New("another replica failed to send this notification; trying again at the next flush")
	// ErrNotSent is wrapped by the error of Send if nothing was sent because of a limit of this replica: others may try.
	ErrNotSent = errors.New("the notification was not sent")
	// ErrUnsure is returned if a replica disappeared with a claim for other alerts of the group, and this replica may not
	// know the newest state of the alerts.
	ErrUnsure = errors.New("another replica disappeared while it notified about other alerts of this group; trying again at the next flush")

	errLost     = errors.New("the claim of the notification could not be renewed in time, or was taken over")
	errRecorded = errors.New("another replica recorded a notification of this group in the meantime")
)

// Store has the rows of notifications; index.Alertmanagers implements it.
type Store interface {
	Notification(ctx context.Context, key string) (schema.Notification, error)
	ReplaceNotification(ctx context.Context, key string, old, next schema.Notification) (bool, error)
}

// Options configure Claims. All fields but Now and Logger must be set.
type Options struct {
	Store Store
	// ID identifies the process and its start, different for every start.
	ID string
	// Running is a monotonic clock that continues while the machine is suspended.
	Running func() time.Duration
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
	// Tell tells the other replicas what was sent without a claim; they call Told. Default: nobody is told.
	Tell func(key, entry string, flushed int64)
}

// Metrics are the metrics of all Claims of a process.
type Metrics struct {
	unclaimed prometheus.Counter
	taken     prometheus.Counter
	waited    prometheus.Counter
	lost      prometheus.Counter
	unwritten prometheus.Gauge
}

// Claims claims notifications for one replica. It is safe for concurrent use.
type Claims struct {
	opts Options

	mu       sync.Mutex
	attempts uint64
	active   int               // notifications that are on their way
	known    map[string]*known // by key of the row
}

// known is what a replica knows about a notification.
type known struct {
	row  schema.Notification // as it was last read or written
	seen time.Duration       // when row was first read
	used time.Duration       // when it was read or changed last
	// sent is what this replica has sent last. unwritten is set until it is in the row.
	sent      *sent
	unwritten bool
	told      *sent // by another replica, which sent without a claim
}

// sent is a notification that was sent.
type sent struct {
	holder  string // of the claim; empty: it was sent without a claim
	number  uint64 // of the claim
	before  string // entry of the row before
	entry   string
	flushed int64
	expires int64
}

// Attempt is what a replica wants to send.
type Attempt struct {
	Key     string // schema.NotificationKey
	Content uint64 // hash of the firing and resolved alerts
	Flushed time.Time
	Updated time.Time // when the firing alerts were received last; zero: none fires
	Learned time.Time // when the state of an alert was learned last: when it was received, or its end has passed
	// Interval is the group interval.
	Interval time.Duration
	// Position is the place of this replica among those of the tenant, from 0.
	Position int
	// Due reports whether a notification is due, if entry was sent last (empty: nothing was), and whether it is the
	// first one about these alerts.
	Due func(entry string) (due, first bool, err error)
	// Unsure returns an entry after which a notification about all of the alerts is due, whatever their states are.
	Unsure func() (string, error)
	// Admit waits until the tenant may send one more notification. It is called once, before the first claim. Nil: nothing
	// limits it.
	Admit func(ctx context.Context) error
	// Send sends. It returns the entry to be recorded, and until when that is needed. It must stop when its context
	// ends.
	Send func(ctx context.Context) (entry string, expires time.Time, err error)
}

// New returns Claims.
func New(o Options) *Claims {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tell == nil {
		o.Tell = func(string, string, int64) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Claims{opts: o, known: map[string]*known{}}
}

// Notify sends a notification if one is due and no other replica has sent it. It waits while another replica holds the
// claim. It returns nil if the notification was sent, by whichever replica, or is not due.
func (c *Claims) Notify(ctx context.Context, a *Attempt) error {
	began := c.opts.Running()
	w := &wait{poll: pollFirst, reached: began}
	for {
		err := c.step(ctx, a, w)
		if !errors.Is(err, errAgain) {
			return err
		}
		if err := sleep(ctx, w.poll); err != nil {
			return err
		}
		if c.opts.Running()-began > claimLife {
			w.poll = min(2*w.poll, pollLate)
		} else {
			w.poll = min(2*w.poll, pollMost)
		}
	}
}

// errAgain means that the row must be read again.
var errAgain = errors.New("the notification must be read again")

// wait is the state of Notify between steps.
type wait struct {
	poll     time.Duration
	reached  time.Duration // when the row store answered last
	began    bool
	failures uint64 // in the row when Notify began
	waited   bool
	position bool // waited for the replicas before this one, without the row store
	admitted bool
	// claim is set if the outcome of a claim is unknown: the row may be claim.row.
	claim *holding
}

// answered notes that the row store answered.
func (w *wait) answered(now time.Duration, row schema.Notification) {
	w.reached, w.position = now, false
	if !w.began {
		w.began, w.failures = true, row.Failures
	}
}

// step reads the row, and does what follows from it.
func (c *Claims) step(ctx context.Context, a *Attempt, w *wait) error {
	row, err := c.read(ctx, a.Key)
	if err != nil {
		return c.unread(ctx, a, w, err)
	}
	w.answered(c.opts.Running(), row)
	if h := w.claim; h != nil {
		if w.claim = nil; row == h.row {
			return h.send(ctx, a)
		}
	}
	due, err := c.due(a, row.Entry, c.flushed(a.Key, row))
	if err != nil || !due && !a.others(row) {
		return err
	}
	if row.Holder == "" && row.Failures > w.failures && row.Content == a.Content {
		return ErrFailed
	}
	if row.Holder != "" && !c.abandoned(a.Key) {
		c.waits(w)
		return errAgain
	}
	if !due {
		due, err = c.unsure(a)
	}
	if !due || err != nil {
		return err
	}
	w.poll = pollFirst
	return c.claim(ctx, a, w, row)
}

// waits counts that a notification waits for another replica, once.
func (c *Claims) waits(w *wait) {
	if !w.waited {
		w.waited = true
		c.opts.Metrics.waited.Inc()
	}
}

// read returns the row of a notification, after what this replica has sent is recorded in it.
func (c *Claims) read(ctx context.Context, key string) (schema.Notification, error) {
	if err := c.record(ctx, key); err != nil {
		return schema.Notification{}, err
	}
	return c.look(ctx, key)
}

// look returns the row of a notification, and remembers it.
func (c *Claims) look(ctx context.Context, key string) (schema.Notification, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	row, err := c.opts.Store.Notification(call, key)
	if err == nil {
		c.saw(key, row)
	}
	return row, err
}

// saw remembers a row that was read.
func (c *Claims) saw(key string, row schema.Notification) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.of(key); k.row != row {
		k.row, k.seen = row, c.opts.Running()
	}
}

// of returns what is known about a notification, which is used now. c.mu is locked.
func (c *Claims) of(key string) *known {
	k := c.known[key]
	if k == nil {
		k = &known{seen: c.opts.Running()}
		c.known[key] = k
	}
	k.used = c.opts.Running()
	return k
}

// abandoned reports whether the row of a claim has not changed for the life of a claim.
func (c *Claims) abandoned(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[key]
	return k != nil && c.opts.Running()-k.seen >= claimLife
}

// claim claims a notification whose row may be claimed, and sends it.
func (c *Claims) claim(ctx context.Context, a *Attempt, w *wait, row schema.Notification) error {
	if a.Admit != nil && !w.admitted {
		began := c.opts.Running()
		if err := a.Admit(ctx); err != nil {
			return err
		}
		if w.admitted = true; c.opts.Running()-began > pollMost {
			return errAgain // decide again after a wait
		}
	}
	c.mu.Lock()
	c.attempts++
	holder := fmt.Sprintf("%s/%d", c.opts.ID, c.attempts)
	c.mu.Unlock()
	next := row
	next.Holder, next.Number, next.Sequence, next.Content = holder, row.Number+1, row.Sequence+1, a.Content
	next.Expires = max(row.Expires, c.opts.Now().Add(claimKept).UnixMilli())
	began := c.opts.Running()
	h := &holding{Claims: c, key: a.Key, row: next, until: began + sendLife, unsure: a.others(row)}
	held, err := c.replace(ctx, a.Key, row, next)
	if err != nil {
		w.claim = h
	}
	if err != nil || !held {
		return errAgain
	}
	if row.Holder != "" {
		c.opts.Metrics.taken.Inc()
		c.opts.Logger.Warn("took over a notification from another replica, which may have sent it", "replica", row.Holder)
	}
	return h.send(ctx, a)
}

func (c *Claims) replace(ctx context.Context, key string, old, next schema.Notification) (bool, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	held, err := c.opts.Store.ReplaceNotification(call, key, old, next)
	if err == nil && held {
		c.saw(key, next)
	}
	return held, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
