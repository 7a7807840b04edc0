package authn

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/lru"
)

// AttemptsConfig configures after how many failures further attempts are delayed. A value
// of 0 selects the default.
type AttemptsConfig struct {
	PerSource       float64 `yaml:"per_source"`        // failures per second of one address (IPv6: one /64); default 50
	PerSourceBurst  float64 `yaml:"per_source_burst"`  // default 200
	PerNetwork      float64 `yaml:"per_network"`       // failures per second of one network (/24, IPv6 /56); default 200
	PerNetworkBurst float64 `yaml:"per_network_burst"` // default 1000
	// Entries is the maximum number of addresses in memory, and also of networks, of keys
	// and of subjects; default 50000.
	Entries int `yaml:"entries"`
}

const (
	// knownGoodFor is how long a key, or a JWT subject from an address, counts as
	// known after noteValid recorded it. Known credentials are not delayed before
	// their check. Known keys do not wait at a gate; known subjects do, but are
	// preferred there.
	knownGoodFor = 10 * time.Minute

	// maxDelay is the longest delay. It is shorter than the timeouts of clients.
	maxDelay = time.Second

	// Maximum numbers of requests that are delayed at the same time. An attempt beyond
	// them is not delayed: its cost is bounded by the gates in front of the checks.
	maxDelayed           = 1000
	maxDelayedPerNetwork = 500
	maxDelayedPerSource  = 250
)

// subject is a JWT subject from an address. Issuer and subject are not verified before they
// are looked up. The address is included so that a client at another address gains nothing
// by claiming the subject.
type subject struct {
	source   netip.Prefix
	iss, sub string
}

// attempts counts failures, and delays further attempts of addresses and networks with too many
// failures. It never rejects: before the check, a valid credential looks like a wrong one, and
// guessing 256 bits is hopeless in any case. The delay bounds the cost of checks: a client that
// waits for a response before its next attempt makes few attempts.
type attempts struct {
	cfg      AttemptsConfig
	now      func() time.Time
	sources  *lru.Cache[netip.Prefix, *bucket]
	networks *lru.Cache[netip.Prefix, *bucket]
	keys     *lru.Cache[string, time.Time] // by key ID: when noteValid recorded it
	subjects *lru.Cache[subject, time.Time]
	delayed  delayed
}

// bucket counts how many more failures are allowed before attempts are delayed. A count below zero
// determines the delay.
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
		delayed:  delayed{sources: map[netip.Prefix]int{}, networks: map[netip.Prefix]int{}},
	}
}

// pause waits for the delay that the failures of the address or its network cause:
// usually none, and never longer than maxDelay. The error is the context's.
func (a *attempts) pause(ctx context.Context, src netip.Addr) error {
	d := max(a.delay(a.sources, source(src), a.cfg.PerSource), a.delay(a.networks, network(src), a.cfg.PerNetwork))
	if d <= 0 || !a.delayed.enter(src) {
		return nil
	}
	defer a.delayed.leave(src)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed counts a failure of the address, and of its network unless the address has used
// up its own burst: one bad client delays only itself.
func (a *attempts) failed(src netip.Addr) {
	if a.take(a.sources, source(src), a.cfg.PerSource, a.cfg.PerSourceBurst) {
		a.take(a.networks, network(src), a.cfg.PerNetwork, a.cfg.PerNetworkBurst)
	}
}

// delay returns how long until the bucket is no longer below zero, or zero or less if it is not below zero.
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

// take removes a token and reports whether there was one.
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

// failures returns how many failures currently count against the address.
func (a *attempts) failures(src netip.Addr) float64 {
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

// noteValid records that a credential is valid now. It is called for every valid request,
// so it leaves an entry that is newer than half of knownGoodFor as it is.
func noteValid[K comparable](in *lru.Cache[K, time.Time], k K, now time.Time) {
	if t, ok := in.Get(k); ok && now.Sub(t) < knownGoodFor/2 {
		return
	}
	in.Put(k, now)
}

// delayed counts the requests that are being delayed.
type delayed struct {
	mu                sync.Mutex
	all               int
	sources, networks map[netip.Prefix]int
}

// enter reports whether another request may be delayed, and counts it.
func (r *delayed) enter(src netip.Addr) bool {
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

func (r *delayed) leave(src netip.Addr) {
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

func (r *delayed) load() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// source returns the prefix that counts as one address: an IPv6 host can use any address
// of its /64.
func source(a netip.Addr) netip.Prefix { return prefix(a, 32, 64) }

// network returns the prefix that one party is likely to own.
func network(a netip.Addr) netip.Prefix { return prefix(a, 24, 56) }

func prefix(a netip.Addr, bits4, bits6 int) netip.Prefix {
	a = a.Unmap()
	bits := bits4
	if a.Is6() {
		bits = bits6
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all requests without an address share a bucket
	}
	return p
}
