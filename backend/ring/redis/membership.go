// Package redis keeps the members of the ring in Redis. Each process writes only
// its own entry and its own heartbeat, and reads the others': there is no
// compare-and-swap of a whole ring. Redis may be lost, emptied or fail over at
// any time: every process keeps the last ring it saw, whoever finds an instance
// missing that nobody removed on purpose writes it back, and only a member that
// left, or was forgotten by an operator, leaves the ring.
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

// Options of a Membership. Durations of 0 are the defaults.
type Options struct {
	Client goredis.UniversalClient // stays the caller's
	Signer Signer                  // of this process, as a member of the cluster
	Prefix string                  // of the keys; default "pallium:ring"
	// Self is this process; without an ID it only watches.
	Self ring.Instance
	// File keeps an ingester's tokens over restarts. With it set, Self is an
	// ingester.
	File string
	// Holds says that the instance's data directory has samples: its zone must stay
	// what it was.
	Holds bool

	Heartbeat time.Duration // between two heartbeats and looks at the ring; default 3 s
	Timeout   time.Duration // silent for longer is unhealthy; default 30 s
	Logger    *slog.Logger
	// Registerer gets the metrics.
	Registerer prometheus.Registerer
}

// ErrZoneChanged is returned for an ingester with samples that it took as a
// replica of another zone: with two zones to hold a sample, the samples that it and
// an ingester of its new zone have would be in one.
var ErrZoneChanged = errors.New("zone of an ingester with data was changed")

// Membership is a process's view of the ring and its place in it. It is safe for
// concurrent use.
type Membership struct {
	o       Options
	keys    []string
	channel string
	scripts scripts
	metrics *metrics

	current atomic.Pointer[ring.Ring]

	mu        sync.Mutex // guards what follows, and is held during calls to Redis
	self      ring.Instance
	joined    bool
	fresh     bool // the directory is new, see Fresh
	replaced  bool
	lostZone  string // of the instance that was replaced
	zoneKnown bool   // the file says for which zone the directory's samples were taken
	epoch     string
	version   string
	seenAt    int64     // ms of Redis, of the last look
	looked    time.Time // when that was here
	readAll   bool      // the next look is at everything
	sawAll    time.Time // when the last such look was
	published string    // what the current ring was made of
	failing   bool

	key    ed25519.PrivateKey // signs this process's heartbeats
	mine   entry              // as it was registered last
	newest int64              // the largest version of this instance's entries

	members    map[string]known
	candidates map[string]entry   // newer entries of members, until they are alive
	ended      map[string]removal // the last one of each instance
	untrusted  map[string]string  // values of Redis that are ignored, by ID
	noted      map[string]string  // hashes of what was counted
	logSince   time.Time          // of logLines
	logLines   int
	wrote      map[string]time.Time // when this process last wrote a member's entry
	beats      map[string]string    // as they stand in Redis
	changes    int                  // of members

	background *background.Group
}

// Open begins to watch the ring. It does not wait for Redis; Wait does.
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
		return nil, errors.New("ring in Redis: nothing to sign entries with")
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key for heartbeats: %w", err)
	}
	m := &Membership{o: o, self: o.Self, scripts: newScripts(), key: key,
		members: map[string]known{}, ended: map[string]removal{}, noted: map[string]string{}, wrote: map[string]time.Time{}}
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

// Close stops watching and beating. The instance stays a member.
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

// Wait returns when a ring is known.
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

// Self is this process's entry as it is now.
func (m *Membership) Self() ring.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self
}

// Fresh reports whether this ingester's directory is new, and whether the ring had
// an instance of its name with another one: then that one was lost with its disk.
// It does so over restarts, until Settled.
func (m *Membership) Fresh() (fresh, replaced bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fresh, m.replaced
}

// LostZone is the zone of the instance that this one replaced, see Fresh.
func (m *Membership) LostZone() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lostZone
}

// Settled says that the loss is known where it has to be.
func (m *Membership) Settled() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh, m.replaced = false, false
	return m.saveFile()
}

// Join makes this process a member, of the given state when it is new: who comes
// back is Active as before, so that its series stay where they are. When Redis cannot be
// reached that happens as soon as it can be, and Join returns nil: an ingester
// that restarts is in the others' rings anyway. An ingester without tokens needs
// Redis to find its place, and waits for it.
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
		m.o.Logger.Warn("the ring's Redis cannot be reached, and this ingester has no place in the ring yet; retrying", "err", err)
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

// SetState changes this member's state. An error means that Redis does not know
// yet; it will as soon as it can be reached.
func (m *Membership) SetState(ctx context.Context, state ring.State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.State = state
	return m.sync(ctx)
}

// Leave takes this process out of the ring for good.
func (m *Membership) Leave(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joined = false
	return m.remove(ctx, m.self.ID)
}

// Forget takes another instance out of the ring that will not come back, or an
// entry that nobody trusts. It returns what the instance was.
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
	return k.instance(), m.look(ctx)
}

// Distrusts reports whether Redis has an entry of an instance that is no member and
// that nobody trusts.
func (m *Membership) Distrusts(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, member := m.members[id]
	_, bad := m.untrusted[id]
	return bad && !member
}

// keepRemovals is how long a removal stays in Redis: longer than any process is
// cut off and comes back.
const keepRemovals = 7 * 24 * time.Hour

func (m *Membership) remove(ctx context.Context, id string) error {
	if m.seenAt == 0 {
		if err := m.look(ctx); err != nil {
			return err
		}
	}
	r := removal{ID: id, Version: max(m.members[id].Version, m.candidates[id].Version, m.ended[id].Version), At: m.redisNow()}
	if id == m.self.ID {
		r.Version = max(r.Version, m.newest)
	}
	if err := r.seal(m.o.Signer); err != nil {
		return err
	}
	args := []any{newEpoch(), m.channel, id, r.value}
	for other, old := range m.ended {
		if other != id && r.At-old.At > keepRemovals.Milliseconds() {
			args = append(args, other, old.value)
		}
	}
	if err := m.scripts.remove.Run(ctx, m.o.Client, m.keys, args...).Err(); err != nil {
		return fmt.Errorf("take %s out of the ring: %w", id, err)
	}
	m.ended[id] = r
	delete(m.members, id)
	delete(m.candidates, id)
	delete(m.wrote, id)
	m.changes++
	return nil
}

// pauses is into how many parts a heartbeat's time is divided: one of them is at
// least between two looks, however often somebody says that the ring changed.
const pauses = 300

// watch looks at the ring and beats, on time and when somebody says that it
// changed, until ctx is done.
func (m *Membership) watch(ctx context.Context) {
	sub := m.o.Client.Subscribe(ctx, m.channel)
	defer func() { _ = sub.Close() }() // of no use any more
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
			// At once, but who can publish must not set the pace.
			select {
			case <-ctx.Done():
				return
			case <-time.After(m.o.Heartbeat/pauses - time.Since(began)):
			}
			drain(changes)
		}
	}
}

// drain takes what else was said: one look sees all of it.
func drain(changes <-chan *goredis.Message) {
	for {
		select {
		case <-changes:
		default:
			return
		}
	}
}

// report logs the first failure of a row, and the end of the row.
func (m *Membership) report(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		m.metrics.failures.Inc()
	}
	if err != nil && !m.failing {
		m.o.Logger.Error("the ring's Redis cannot be reached; the last ring stays in use", "err", err)
	}
	if err == nil && m.failing {
		m.o.Logger.Info("the ring's Redis is back")
	}
	m.failing = err != nil
}

// sync registers this process if it has to, beats, and looks at the ring.
func (m *Membership) sync(ctx context.Context) error {
	if m.seenAt == 0 { // a heartbeat needs Redis' time
		if err := m.look(ctx); err != nil {
			return err
		}
	}
	if m.joined {
		if err := m.beat(ctx); err != nil {
			return err
		}
	}
	return m.look(ctx)
}

func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
