// Package claims lets the replicas of a tenant's Alertmanager agree on the replica that sends a notification. Each
// notification (a group of alerts, a receiver and an integration) has a row in the row store. A replica claims the row
// before it sends the notification, and records the notification in the row afterwards. docs/alertmanager.md describes the
// protocol.
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
	// claimLife is the time without a change of a claim after which another replica takes it over.
	claimLife = 30 * time.Second
	// sendLife is the time after the start of the last successful renewal during which the holder of a claim may send.
	// It is shorter than claimLife because clocks run at different speeds.
	sendLife = claimLife - 5*time.Second
	// renewInterval is the interval between renewals of a claim, and renewAgain the interval after a failed renewal.
	renewInterval = 8 * time.Second
	renewAgain    = time.Second
	// callTimeout limits a call of the row store.
	callTimeout = 3 * time.Second
	// unreachable is the time without a response of the row store after which replicas send without claims.
	unreachable = 10 * time.Second
	// positionDelay is the time that a replica waits for each replica before it when they send without claims. It is
	// Alertmanager's peer timeout.
	positionDelay = 15 * time.Second
	// claimKept is the minimum time that the row of a claim is kept. Without an expiry, the row of a holder that crashed
	// would stay forever if the group never notifies again.
	claimKept = 24 * time.Hour
	// maxKnown is the number of notifications in memory above which they are removed sooner.
	maxKnown = 100_000
	// lingerTime is the maximum time that a notification in progress continues after it was canceled.
	lingerTime = 10 * time.Second
	// learnTime is the time within which a replica receives the state of all alerts: senders repeat them about every minute.
	learnTime = 2 * time.Minute
	// releaseTime limits the time to give up a claim. recordTime limits the time that a flush waits until its
	// notification is recorded; after that, Run continues to record it.
	releaseTime = 5 * time.Second
	recordTime  = 10 * time.Second
	// pollFirst and pollMost are the shortest and the longest interval at which a replica reads the claim of another
	// replica.
	pollFirst = 250 * time.Millisecond
	pollMost  = 2 * time.Second
	// pollLate replaces pollMost for a claim that lasts longer than a claim without renewals would: its holder waits for
	// a receiver that does not respond.
	pollLate = 8 * time.Second
	// earlySlack is the time by which the flush of another replica may be earlier than the group interval.
	earlySlack = time.Second
)

var (
	// ErrEarly is returned if another replica has sent a notification of the group less than one group interval ago.
	ErrEarly = errors.New("another replica notified about this group less than group_interval ago; trying again at the next flush")
	// ErrFailed is returned if the replica with the claim failed to send a notification about the same alerts.
	ErrFailed = errors.New("another replica failed to send this notification; trying again at the next flush")
	// ErrNotSent is wrapped by the error of Send if the notification was not sent because of a limit on this replica. Other
	// replicas may try to send it.
	ErrNotSent = errors.New("the notification was not sent")
	// ErrUnsure is returned if a replica disappeared with a claim for other alerts of the group, and this replica may not
	// have received the newest state of the alerts yet.
	ErrUnsure = errors.New("another replica disappeared while it notified about other alerts of this group; trying again at the next flush")

	errLost     = errors.New("the claim of the notification could not be renewed in time, or was taken over")
	errRecorded = errors.New("another replica recorded a notification of this group in the meantime")
)

// Store reads and writes the rows of notifications. index.Alertmanagers implements it.
type Store interface {
	Notification(ctx context.Context, key string) (schema.Notification, error)
	ReplaceNotification(ctx context.Context, key string, old, next schema.Notification) (bool, error)
}

// Options configure Claims. Running, Store, ID and Metrics must be set.
type Options struct {
	Store Store
	// ID identifies the process. It is different after every start.
	ID string
	// Running is a monotonic clock that continues while the machine is suspended.
	Running func() time.Duration
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
	// Tell tells the other replicas about a notification that was sent without a claim; they call Told. If Tell is nil,
	// they are not told.
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
	active   int               // number of notifications in progress
	known    map[string]*known // by key of the row
}

// known is the knowledge of a replica about a notification.
type known struct {
	row  schema.Notification // the row as it was last read or written
	seen time.Duration       // when row was first read
	used time.Duration       // when the row was last read or changed
	// sent is the last notification that this replica sent. unwritten is set until it is recorded in the row.
	sent      *sent
	unwritten bool
	told      *sent // notification that another replica sent without a claim
}

// sent is a notification that was sent.
type sent struct {
	holder  string // holder of the claim; empty if it was sent without a claim
	number  uint64 // of the claim
	before  string // entry of the row before this notification
	entry   string
	flushed int64
	expires int64
}

// Attempt is a notification that a replica wants to send.
type Attempt struct {
	Key     string // schema.NotificationKey
	Content uint64 // hash of the firing and resolved alerts
	Flushed time.Time
	Updated time.Time // when the firing alerts were last received; zero if no alert fires
	Learned time.Time // latest time at which an alert was received or ended
	// Interval is the group interval.
	Interval time.Duration
	// Position is the index of this replica among the tenant's replicas.
	Position int
	// Due reports whether a notification is due if `entry` was sent last (empty if none was sent), and whether it would
	// be the first one about these alerts.
	Due func(entry string) (due, first bool, err error)
	// Unsure returns an entry after which a notification about all alerts of the group is due, regardless of their states.
	Unsure func() (string, error)
	// Admit waits until the tenant may send one more notification. It is called once, before the first claim. If it is
	// nil, there is no limit.
	Admit func(ctx context.Context) error
	// Send sends the notification. It returns the entry to be recorded, and the time at which the entry expires. It must
	// stop when its context ends.
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
// claim. It returns nil if the notification was sent, by this or another replica, or is not due.
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
	reached  time.Duration // when the row store last responded
	began    bool
	failures uint64 // failures in the row when Notify began
	waited   bool
	position bool // whether it has waited for the replicas before this one, without the row store
	admitted bool
	// claim is set while the outcome of a claim is unknown: the row may be equal to claim.row.
	claim *holding
}

// answered records that the row store has responded.
func (w *wait) answered(now time.Duration, row schema.Notification) {
	w.reached, w.position = now, false
	if !w.began {
		w.began, w.failures = true, row.Failures
	}
}

// step reads the row and takes the next step: it waits, claims the row and sends, or ends.
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

// waits counts a notification that waits for another replica, once.
func (c *Claims) waits(w *wait) {
	if !w.waited {
		w.waited = true
		c.opts.Metrics.waited.Inc()
	}
}

// read returns the row of a notification. If this replica has sent a notification that is not recorded yet, it records it
// first.
func (c *Claims) read(ctx context.Context, key string) (schema.Notification, error) {
	if err := c.record(ctx, key); err != nil {
		return schema.Notification{}, err
	}
	return c.look(ctx, key)
}

// look reads the row of a notification, and remembers it.
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

// of returns the entry of a notification in `known`, and marks it as used now. It creates the entry if there is none. c.mu
// must be locked.
func (c *Claims) of(key string) *known {
	k := c.known[key]
	if k == nil {
		k = &known{seen: c.opts.Running()}
		c.known[key] = k
	}
	k.used = c.opts.Running()
	return k
}

// abandoned reports whether the row of a claim has not changed for claimLife.
func (c *Claims) abandoned(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[key]
	return k != nil && c.opts.Running()-k.seen >= claimLife
}

// claim claims the row of a notification, which nobody else holds, and sends the notification.
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
