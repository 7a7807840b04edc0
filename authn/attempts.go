package authn

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/lru"
)

// AttemptsConfig says from how many failures on further attempts are delayed. 0
// means the default.
type AttemptsConfig struct {
	PerSource       float64 `yaml:"per_source"`        // failures per second of one address (IPv6: of a /64); default 50
	PerSourceBurst  float64 `yaml:"per_source_burst"`  // default 200
	PerNetwork      float64 `yaml:"per_network"`       // failures per second of a network (/24, IPv6 /56); default 200
	PerNetworkBurst float64 `yaml:"per_network_burst"` // default 1000
	Entries         int     `yaml:"entries"`           // addresses, networks, keys and subjects remembered, of each; default 50000
}

const (
	// knownGoodFor is how long a key, or a JWT subject at an address, that was
	// valid is neither delayed nor made to wait behind strangers.
	knownGoodFor = 10 * time.Minute

	// maxDelay is the longest delay. Clients wait for longer than that, so none of
	// them takes a delay for a failure.
	maxDelay = time.Second

	// Requests that are delayed at once. Beyond these an attempt is not delayed:
	// what it then costs is bounded by the gates before the checks.
	maxDelayed           = 1000
	maxDelayedPerNetwork = 500
	maxDelayedPerSource  = 250
)

// subject is a JWT subject at an address. Its issuer and name are not proven when
// it is asked for, which is why the address is part of it: claiming to be somebody
// else gains nothing to those who do not share that address.
type subject struct {
	source   netip.Prefix
	iss, sub string
}

// attempts counts failures and delays the attempts of addresses and networks that
// have too many. It never rejects: before the check nobody can tell a valid
// credential from a wrong one, and guessing 256 bits is hopeless at any rate. What
// the delay is for is the cost of checks: a client that waits for its answer
// before it tries again makes few of them.
type attempts struct {
	cfg      AttemptsConfig
	now      func() time.Time
	sources  *lru.Cache[netip.Prefix, *bucket]
	networks *lru.Cache[netip.Prefix, *bucket]
	keys     *lru.Cache[string, time.Time] // by key ID: when it was valid
	subjects *lru.Cache[subject, time.Time]
	room     room
}

// bucket has the failures that are left before attempts are delayed; below zero
// it says for how long.
type bucket struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newAttempts(cfg AttemptsConfig, now func() time.Time) *attempts {
	def := func(v *float64, d float64) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&cfg.PerSource, 50)
	def(&cfg.PerSourceBurst, 200)
	def(&cfg.PerNetwork, 200)
	def(&cfg.PerNetworkBurst, 1000)
	if cfg.Entries <= 0 {
		cfg.Entries = 50_000
	}
	return &attempts{
		cfg: cfg, now: now,
		sources:  lru.New[netip.Prefix, *bucket](int64(cfg.Entries), nil),
		networks: lru.New[netip.Prefix, *bucket](int64(cfg.Entries), nil),
		keys:     lru.New[string, time.Time](int64(cfg.Entries), nil),
		subjects: lru.New[subject, time.Time](int64(cfg.Entries), nil),
		room:     room{sources: map[netip.Prefix]int{}, networks: map[netip.Prefix]int{}},
	}
}

// pause waits as long as the failures of the address, or else of its network, ask
// for: not at all as a rule, and never for longer than maxDelay. The error is the
// context's.
func (a *attempts) pause(ctx context.Context, src netip.Addr) error {
	d := max(a.delay(a.sources, source(src), a.cfg.PerSource), a.delay(a.networks, network(src), a.cfg.PerNetwork))
	if d <= 0 || !a.room.enter(src) {
		return nil
	}
	defer a.room.leave(src)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed counts a failure against the address, and against its network as long as
// the address alone does not account for it: one bad neighbour delays itself.
func (a *attempts) failed(src netip.Addr) {
	if a.take(a.sources, source(src), a.cfg.PerSource, a.cfg.PerSourceBurst) {
		a.take(a.networks, network(src), a.cfg.PerNetwork, a.cfg.PerNetworkBurst)
	}
}

// delay is how long until the bucket has something left.
func (a *attempts) delay(in *lru.Cache[netip.Prefix, *bucket], k netip.Prefix, rate float64) time.Duration {
	b, ok := in.Get(k)
	if !ok {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	tokens := b.tokens + max(0, a.now().Sub(b.last).Seconds())*rate
	return time.Duration(-tokens / rate * float64(time.Second))
}

// take takes a token and reports whether there was one.
func (a *attempts) take(from *lru.Cache[netip.Prefix, *bucket], k netip.Prefix, rate, burst float64) bool {
	now := a.now()
	b := from.GetOrPut(k, &bucket{tokens: burst, last: now})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now, rate, burst)
	had := b.tokens >= 1
	b.tokens = max(b.tokens-1, -rate*maxDelay.Seconds())
	return had
}

func (b *bucket) refill(now time.Time, rate, burst float64) {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.tokens+d.Seconds()*rate, burst)
		b.last = now
	}
}

// faults is how many failures the address has to its name.
func (a *attempts) faults(src netip.Addr) float64 {
	b, ok := a.sources.Get(source(src))
	if !ok {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(a.now(), a.cfg.PerSource, a.cfg.PerSourceBurst)
	return a.cfg.PerSourceBurst - b.tokens
}

func (a *attempts) knownKey(keyID string) bool { return isRecent(a.keys, keyID, a.now()) }

func (a *attempts) knownSubject(s subject) bool { return isRecent(a.subjects, s, a.now()) }

func isRecent[K comparable](in *lru.Cache[K, time.Time], k K, now time.Time) bool {
	t, ok := in.Get(k)
	return ok && now.Sub(t) < knownGoodFor
}

func (a *attempts) validKey(keyID string) { noteValid(a.keys, keyID, a.now()) }

func (a *attempts) validSubject(s subject) { noteValid(a.subjects, s, a.now()) }

// noteValid writes seldom, since it is called for every valid request.
func noteValid[K comparable](in *lru.Cache[K, time.Time], k K, now time.Time) {
	if t, ok := in.Get(k); ok && now.Sub(t) < knownGoodFor/2 {
		return
	}
	in.Put(k, now)
}

// room counts the requests that are delayed now.
type room struct {
	mu                sync.Mutex
	all               int
	sources, networks map[netip.Prefix]int
}

// enter reports whether there is a place.
func (r *room) enter(src netip.Addr) bool {
	s, n := source(src), network(src)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all >= maxDelayed || r.networks[n] >= maxDelayedPerNetwork || r.sources[s] >= maxDelayedPerSource {
		return false
	}
	r.all++
	r.networks[n]++
	r.sources[s]++
	return true
}

func (r *room) leave(src netip.Addr) {
	s, n := source(src), network(src)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.networks[n]--; r.networks[n] == 0 {
		delete(r.networks, n)
	}
	if r.sources[s]--; r.sources[s] == 0 {
		delete(r.sources, s)
	}
}

func (r *room) load() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// source is what counts as one address: an IPv6 host has a /64 to choose from.
func source(a netip.Addr) netip.Prefix { return prefix(a, 32, 64) }

// network is the part of an address that one party is likely to hold.
func network(a netip.Addr) netip.Prefix { return prefix(a, 24, 56) }

func prefix(a netip.Addr, bits4, bits6 int) netip.Prefix {
	a = a.Unmap()
	bits := bits4
	if a.Is6() {
		bits = bits6
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr: one bucket for all of them
	}
	return p
}
