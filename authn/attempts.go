package authn

import (
	"net/netip"
	"sync"
	"time"
)

// AttemptsConfig bounds failed attempts, so that guessing and broken senders
// cost neither signature checks nor store reads. 0 means the default.
type AttemptsConfig struct {
	PerSource      float64 `yaml:"per_source"`       // failures per second of a network (/24, IPv6 /56); default 50
	PerSourceBurst float64 `yaml:"per_source_burst"` // default 200
	PerKey         float64 `yaml:"per_key"`          // failures per second of one key ID from one network; default 1
	PerKeyBurst    float64 `yaml:"per_key_burst"`    // default 20
	Entries        int     `yaml:"entries"`          // networks and keys remembered; default 50000
}

// knownGoodFor is how long a key that was valid is exempt from the failures of
// its neighbours. Behind a load balancer all senders share one source; one with
// a stale key must not lock the others out.
const knownGoodFor = 10 * time.Minute

type attemptKey struct {
	source netip.Prefix
	keyID  string // "" for the whole source
}

// attempts counts failures in token buckets. A key ID has its own bucket per
// network, and is asked first: whoever knows a key ID can only lock out itself,
// and a single sender with a wrong secret does not use up its neighbours' budget.
type attempts struct {
	cfg     AttemptsConfig
	now     func() time.Time
	buckets *recent[attemptKey, *bucket]
	good    *recent[string, time.Time]
}

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
	def(&cfg.PerKey, 1)
	def(&cfg.PerKeyBurst, 20)
	if cfg.Entries <= 0 {
		cfg.Entries = 50_000
	}
	return &attempts{
		cfg: cfg, now: now,
		buckets: newRecent[attemptKey, *bucket](cfg.Entries),
		good:    newRecent[string, time.Time](cfg.Entries),
	}
}

// allow reports, before any crypto, whether another attempt may be made. It
// costs no budget; failed does.
func (a *attempts) allow(src netip.Addr, keyID string) error {
	net := network(src)
	if keyID != "" {
		if wait := a.wait(attemptKey{net, keyID}, a.cfg.PerKey, a.cfg.PerKeyBurst); wait > 0 {
			return &Error{Kind: Throttled, Reason: "failures_per_key", RetryAfter: wait}
		}
		if t, ok := a.good.get(keyID); ok && a.now().Sub(t) < knownGoodFor {
			return nil
		}
	}
	if wait := a.wait(attemptKey{source: net}, a.cfg.PerSource, a.cfg.PerSourceBurst); wait > 0 {
		return &Error{Kind: Throttled, Reason: "failures_per_source", RetryAfter: wait}
	}
	return nil
}

func (a *attempts) failed(src netip.Addr, keyID string) {
	net := network(src)
	a.take(attemptKey{source: net}, a.cfg.PerSource, a.cfg.PerSourceBurst)
	if keyID != "" {
		a.take(attemptKey{net, keyID}, a.cfg.PerKey, a.cfg.PerKeyBurst)
	}
}

func (a *attempts) succeeded(keyID string) {
	now := a.now()
	if t, ok := a.good.get(keyID); ok && now.Sub(t) < knownGoodFor/2 {
		return
	}
	a.good.put(keyID, now)
}

// wait is how long until the bucket has a token; 0 if it has one, or nobody
// failed there lately.
func (a *attempts) wait(k attemptKey, rate, burst float64) time.Duration {
	b, ok := a.buckets.get(k)
	if !ok {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(a.now(), rate, burst)
	if b.tokens >= 1 {
		return 0
	}
	return time.Duration((1 - b.tokens) / rate * float64(time.Second))
}

func (a *attempts) take(k attemptKey, rate, burst float64) {
	now := a.now()
	b := a.buckets.getOrPut(k, &bucket{tokens: burst, last: now})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now, rate, burst)
	b.tokens = max(b.tokens-1, 0)
}

func (b *bucket) refill(now time.Time, rate, burst float64) {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.tokens+d.Seconds()*rate, burst)
		b.last = now
	}
}

// network is the part of an address that one party is likely to hold.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr: one bucket for all of them
	}
	return p
}
