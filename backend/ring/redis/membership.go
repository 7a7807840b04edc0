// Package redis stores the members of the ring in Redis. Each process writes its own
// entry and heartbeat, and reads the entries and heartbeats of others: no process writes the whole ring.
// Redis may be lost, emptied or fail over at any time. Every process keeps
// the last ring that it read, and a process that finds a member missing in Redis writes
// its entry back. A member is removed from the ring only when it leaves or when an
// operator forgets it.
package redis

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/backend/ring"
)

// Options configure a Membership. A duration of 0 means its default.
type Options struct {
	Client goredis.UniversalClient // closed by the caller
	Signer Signer                  // of this process, as a member of the cluster
	Prefix string                  // of the keys; default "pallium:ring"
	// Self is this process. Without an ID, the process only watches the ring.
	Self ring.Instance
	// File stores an ingester's tokens across restarts. If it is set, Self is an
	// ingester.
	File string
	// HasData is true if the instance's data directory has samples. Then its zone must
	// not change.
	HasData bool

	Heartbeat  time.Duration // between two heartbeats and reads of the ring; default 3 s
	Timeout    time.Duration // an instance without a heartbeat for longer is unhealthy; default 30 s
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// ErrZoneChanged is returned for an ingester with data that was accepted in another
// zone. A sample counts as durable in two zones, and after the change both of its
// copies could be in one zone.
var ErrZoneChanged = errors.New("the zone of an ingester with data was changed")

// Membership is a process's view of the ring and its own membership. It is safe for
// concurrent use.
type Membership struct {
	o       Options
	keys    []string
	channel string
	scripts scripts
	metrics *metrics

	current atomic.Pointer[ring.Ring]

	mu        sync.Mutex // guards the fields below; held during calls of Redis
	self      ring.Instance
	joined    bool
	fresh     bool   // the data directory is new, see Fresh
	replaced  bool   // see Fresh
	lostZone  string // of the replaced instance
	zoneKnown bool   // the file records the zone of the directory's samples
	epoch     string
	version   string
	readAt    int64     // time of the last read, Unix ms by the clock of Redis
	readHere  time.Time // the same by the clock of this process
	readAll   bool      // the next read is a full one
	allReadAt time.Time // time of the last full read
	published string    // identifies the content of the current ring
	failing   bool      // the last sync failed

	key    ed25519.PrivateKey // signs this process's heartbeats
	mine   entry              // of this process, as last registered
	newest int64              // the largest version of this instance's entries

	members    map[string]memberState
	candidates map[string]entry     // newer entries of members, until they have a recent heartbeat
	removals   map[string]removal   // the last removal of each instance
	untrusted  map[string]string    // ignored values in Redis, by ID
	noted      map[string]string    // hashes of ignored values that were counted
	logSince   time.Time            // start of the minute that logLines counts
	logLines   int                  // logged lines about ignored values
	wrote      map[string]time.Time // when this process last wrote a member's entry
	beats      map[string]string    // the heartbeats in Redis, by ID
	changes    int                  // number of changes of members

	background *background.Group
}

// Open starts watching the ring. It does not wait for Redis; see Wait.
func Open(o Options) (*Membership, error) {
	if o.Prefix == "" {
		o.Prefix = "pallium:ring"
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 3 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Signer == nil {
		return nil, errors.New("internal error: the ring has no signing key")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key for heartbeats: %w", err)
	}
	m := &Membership{o: o, self: o.Self, scripts: newScripts(), key: key,
		members: map[string]memberState{}, removals: map[string]removal{}, noted: map[string]string{}, wrote: map[string]time.Time{}}
	for _, k := range []string{"members", "beats", "meta", "gone"} {
		m.keys = append(m.keys, "{"+o.Prefix+"}:"+k)
	}
	m.channel = "{" + o.Prefix + "}:changes"
	m.metrics = newMetrics(o.Registerer, m)
	if err := m.loadFile(); err != nil {
		return nil, err
	}
	m.background = background.New()
	m.background.Go(m.watch)
	return m, nil
}

// Close stops watching the ring and sending heartbeats. The instance stays a member.
func (m *Membership) Close() error {
	m.background.Stop()
	return nil
}

// Ring implements ring.Membership.
func (m *Membership) Ring(context.Context) (*ring.Ring, error) {
	if r := m.current.Load(); r != nil {
		return r, nil
	}
	return nil, ring.ErrUnknown
}

// Wait returns once the ring was read, or with an error that wraps ring.ErrUnknown
// when ctx ends before.
func (m *Membership) Wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for m.current.Load() == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ring.ErrUnknown, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Self returns this process's current instance.
func (m *Membership) Self() ring.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self
}

// Fresh reports whether this ingester's data directory is new, and whether the ring
// had an instance of its name with another directory, which means that the earlier
// instance was lost with its disk. Both are stored across restarts until
// LossRecorded is called.
func (m *Membership) Fresh() (fresh, replaced bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fresh, m.replaced
}

// LostZone returns the zone of the instance that this one replaced, see Fresh.
func (m *Membership) LostZone() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lostZone
}

// LossRecorded clears Fresh: the caller has recorded the loss of the earlier instance.
func (m *Membership) LossRecorded() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh, m.replaced = false, false
	return m.saveFile()
}

// Join makes this process a member. A new member gets the given state; one that
// returns is Active at once, so that its series stay on it. If Redis is unreachable,
// Join returns nil and a later heartbeat registers the process: other processes still
// have a restarted ingester in their rings. An ingester without tokens needs Redis to
// choose them, so Join waits until Redis responds.
func (m *Membership) Join(ctx context.Context, state ring.State) error {
	m.mu.Lock()
	if m.self.State, m.joined = state, true; len(m.self.Tokens) > 0 {
		m.self.State = ring.Active
	}
	waits := m.o.File != "" && len(m.self.Tokens) == 0
	err := m.sync(ctx)
	m.mu.Unlock()
	for err != nil {
		if errors.Is(err, ErrZoneChanged) {
			m.mu.Lock()
			m.joined = false
			m.mu.Unlock()
			return err
		}
		if !waits {
			return nil
		}
		m.o.Logger.Warn("failed to join the ring in Redis, and this ingester has no tokens yet: waiting; retrying", "err", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("join the ring: %w", errors.Join(ctx.Err(), err))
		case <-time.After(m.o.Heartbeat):
		}
		m.mu.Lock()
		err = m.sync(ctx)
		m.mu.Unlock()
	}
	return nil
}

// SetState changes this member's state. After an error, later heartbeats retry writing
// the state to Redis.
func (m *Membership) SetState(ctx context.Context, state ring.State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.State = state
	return m.sync(ctx)
}

// Leave removes this process from the ring permanently.
func (m *Membership) Leave(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joined = false
	return m.remove(ctx, m.self.ID)
}

// Forget removes another instance that will not return, or an untrusted entry, from
// the ring. It returns the removed instance, or an empty one for an untrusted entry.
func (m *Membership) Forget(ctx context.Context, id string) (ring.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.members[id]
	if _, bad := m.untrusted[id]; !ok && !bad {
		return ring.Instance{}, fmt.Errorf("instance %q is not in the ring", id)
	}
	if err := m.remove(ctx, id); err != nil {
		return ring.Instance{}, err
	}
	return k.instance(), m.readRing(ctx)
}

// Untrusted reports whether Redis has only an untrusted entry of an instance, so that
// the instance is not a member.
func (m *Membership) Untrusted(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, member := m.members[id]
	_, bad := m.untrusted[id]
	return bad && !member
}

// keepRemovals is how long a removal is stored in Redis: longer than a process may be
// partitioned from Redis and return with an older ring.
const keepRemovals = 7 * 24 * time.Hour

func (m *Membership) remove(ctx context.Context, id string) error {
	if m.readAt == 0 {
		if err := m.readRing(ctx); err != nil {
			return err
		}
	}
	r := removal{ID: id, Version: max(m.members[id].Version, m.candidates[id].Version, m.removals[id].Version), At: m.redisNow()}
	if id == m.self.ID {
		r.Version = max(r.Version, m.newest)
	}
	if err := r.seal(m.o.Signer); err != nil {
		return err
	}
	args := []any{newEpoch(), m.channel, id, r.value}
	for other, old := range m.removals {
		if other != id && r.At-old.At > keepRemovals.Milliseconds() {
			args = append(args, other, old.value)
		}
	}
	if err := m.scripts.remove.Run(ctx, m.o.Client, m.keys, args...).Err(); err != nil {
		return fmt.Errorf("remove %s from the ring: %w", id, err)
	}
	m.removals[id] = r
	delete(m.members, id)
	delete(m.candidates, id)
	delete(m.wrote, id)
	m.changes++
	return nil
}

// readsPerHeartbeat bounds the reads of the ring per heartbeat interval, however many
// change notifications are published.
const readsPerHeartbeat = 300

// watch sends heartbeats and reads the ring, once per heartbeat interval and after
// change notifications, until ctx is done.
func (m *Membership) watch(ctx context.Context) {
	sub := m.o.Client.Subscribe(ctx, m.channel)
	defer func() { _ = sub.Close() }()
	changes := sub.Channel(goredis.WithChannelSize(16))
	tick := time.NewTicker(m.o.Heartbeat)
	defer tick.Stop()
	for {
		began := time.Now()
		m.mu.Lock()
		m.report(ctx, m.sync(ctx))
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changes:
			// Read at once, but at a bounded rate: others can publish, too.
			select {
			case <-ctx.Done():
				return
			case <-time.After(m.o.Heartbeat/readsPerHeartbeat - time.Since(began)):
			}
			drain(changes)
		}
	}
}

// drain discards pending notifications: the next read covers all of them.
func drain(changes <-chan *goredis.Message) {
	for {
		select {
		case <-changes:
		default:
			return
		}
	}
}

// report counts failures, and logs the first of consecutive failures and the recovery.
func (m *Membership) report(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.metrics.failures.Inc()
	}
	if err != nil && !m.failing {
		m.o.Logger.Error("failed to read or update the ring in Redis: keeping the last ring", "err", err)
	}
	if err == nil && m.failing {
		m.o.Logger.Info("reading and updating the ring in Redis works again")
	}
	m.failing = err != nil
}

// sync sends a heartbeat, registers this process if needed, and reads the ring. m.mu
// must be held.
func (m *Membership) sync(ctx context.Context) error {
	if m.readAt == 0 { // a heartbeat needs the time of Redis
		if err := m.readRing(ctx); err != nil {
			return err
		}
	}
	if m.joined {
		if err := m.beat(ctx); err != nil {
			return err
		}
	}
	return m.readRing(ctx)
}

func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
