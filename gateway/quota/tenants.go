package quota

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

const (
	shardCount = 64
	// An idle tenant with full buckets is as one never seen; it is dropped.
	tenantIdle  = 5 * time.Minute
	sweepPeriod = time.Minute
)

// Tenants holds the budgets of the tenants that were active lately. It is safe for
// concurrent use and owns no goroutines.
type Tenants struct {
	now      func() time.Time
	perShard int
	shards   [shardCount]shard
	sharing  atomic.Pointer[sharing]
}

type shard struct {
	mu    sync.Mutex
	byID  map[tenant.ID]*state
	swept time.Time
}

// state are the budgets of one tenant, and what it used of them.
type state struct {
	seen time.Time // guarded by the shard

	mu       sync.Mutex
	limits   limits.Limits // as of the last request
	requests bucket
	samples  bucket
	bytes    bucket
	admitted int // requests between admit and done
	inflight int // of these, those between enter and leave
	use      usage
	share    budget.Share
	gateways int

	asked    budget.Use // since the last look at demand, in requests, samples and bytes
	lookedAt time.Time
	demand   budget.Use // a second's worth, smoothed
	perWrite float64    // samples of a write, smoothed
	perByte  float64    // samples for each byte of a write's body, smoothed; 0: not known
	reserved float64    // samples of writes that are under way, estimated
	untold   bool       // the backend does not say how many samples it took
}

// usage is counted since the entry was made.
type usage struct {
	requests, rejected uint64
	samples, bytes     uint64
}

// NewTenants returns budgets of about max tenants. Those of more are forgotten, the ones
// that were used longest ago first.
func NewTenants(max int, now func() time.Time) *Tenants {
	t := &Tenants{now: now, perShard: max/shardCount + 1}
	for i := range t.shards {
		t.shards[i].byID = make(map[tenant.ID]*state)
	}
	t.sharing.Store(&sharing{rest: budget.Whole(), gateways: 1})
	return t
}

// get returns the state of a tenant, made if need be.
func (t *Tenants) get(id tenant.ID, now time.Time) *state {
	s := &t.shards[xxhash.Sum64String(string(id))%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) > sweepPeriod {
		s.swept = now
		s.sweep(now)
	}
	st := s.byID[id]
	if st == nil {
		if len(s.byID) >= t.perShard {
			s.evict()
		}
		st = &state{}
		s.byID[id] = st
	}
	st.seen = now
	return st
}

func (s *shard) sweep(now time.Time) {
	for id, st := range s.byID {
		if now.Sub(st.seen) > tenantIdle && st.idle(now) {
			delete(s.byID, id)
		}
	}
}

// evict drops the entry that was not seen for longest, its debt with it: memory
// is bounded first.
func (s *shard) evict() {
	var oldest tenant.ID
	var at time.Time
	for id, st := range s.byID {
		if oldest == "" || st.seen.Before(at) {
			oldest, at = id, st.seen
		}
	}
	delete(s.byID, oldest)
}

// rates are a tenant's limits as far as this gateway may use them.
type rates struct {
	requests, samples, bytes                float64
	requestBurst, sampleBurst, byteBurst, n int // n is how many requests at a time
}

// scaled takes this gateway's share of the limits. Bursts are shared too, so that
// all gateways together let one burst through; requests at a time are shared
// equally.
func (st *state) scaled(l *limits.Limits) rates {
	s := &st.share
	r := rates{
		requests:     l.RequestsPerSecond * s.Rate[budget.Requests],
		requestBurst: part(l.RequestsPerSecond, l.RequestBurst, s.Burst[budget.Requests]),
		samples:      l.SamplesPerSecond * s.Rate[budget.Samples],
		sampleBurst:  part(l.SamplesPerSecond, l.SampleBurst, s.Burst[budget.Samples]),
		bytes:        l.BytesPerSecond * s.Rate[budget.Bytes],
		byteBurst:    part(l.BytesPerSecond, l.ByteBurst, s.Burst[budget.Bytes]),
	}
	if l.MaxConcurrentRequests > 0 {
		n := max(st.gateways, 1)
		r.n = (l.MaxConcurrentRequests + n - 1) / n
	}
	return r
}

// part is a share of a burst, at least 1: of what is set, or else of one second's
// worth.
func part(rate float64, burst int, share float64) int {
	if share == 1 {
		return burst
	}
	whole := float64(burst)
	if burst <= 0 {
		whole = rate
	}
	return max(1, int(min(whole*share, 1<<53)))
}

func (st *state) idle(now time.Time) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(&st.limits)
	return st.admitted == 0 &&
		st.requests.full(now, r.requests, r.requestBurst) &&
		st.samples.full(now, r.samples, r.sampleBurst) &&
		st.bytes.full(now, r.bytes, r.byteBurst)
}

// admit lets a request in, and charges what is known of its cost, or says which
// limit rejects it. Whoever is let in must be given back with done.
func (st *state) admit(now time.Time, r *Request, share budget.Share, gateways int) *Rejection {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.limits, st.share, st.gateways = *r.Limits, share, gateways
	st.use.requests++
	st.asked[budget.Requests]++
	st.asked[budget.Bytes] += float64(max(r.Length, 0))
	if rej := st.check(now, r); rej != nil {
		st.use.rejected++
		if r.Cost == routes.Samples { // what it would have cost nobody knows
			st.asked[budget.Samples] += st.perWrite
		}
		return rej
	}
	if r.Length > 0 {
		own := st.scaled(r.Limits)
		st.bytes.take(now, own.bytes, own.byteBurst, float64(r.Length))
	}
	st.admitted++
	return nil
}

// enter takes one of the tenant's places for requests under way, which leave gives
// back. The request's body has arrived by then.
func (st *state) enter(l *limits.Limits) *Rejection {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := st.scaled(l).n; n > 0 && st.inflight >= n {
		st.use.rejected++
		return st.tooMany(limits.MaxConcurrentRequests.Exceeded(l, int64(st.inflight)), time.Second)
	}
	st.inflight++
	return nil
}

func (st *state) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.inflight--
}

func (st *state) check(now time.Time, r *Request) *Rejection {
	l, own := r.Limits, st.scaled(r.Limits)
	if wait, ok := st.requests.open(now, own.requests, own.requestBurst, 1); !ok {
		return st.tooMany(limits.RequestsPerSecond.Exceeded(l, int64(st.inflight)), wait)
	}
	st.requests.take(now, own.requests, own.requestBurst, 1)
	if l.MaxBodyBytes > 0 && r.Length > l.MaxBodyBytes {
		return BodyTooLarge(l.MaxBodyBytes, r.Length)
	}
	if r.Cost == routes.Samples {
		if rej := st.checkSamples(now, l, &own); rej != nil {
			return rej
		}
	}
	if r.Length != 0 {
		if wait, ok := st.bytes.open(now, own.bytes, own.byteBurst, 0); !ok {
			return st.tooMany(limits.BytesPerSecond.Exceeded(l, whole(-st.bytes.tokens)), wait)
		}
	}
	return nil
}

// checkSamples rejects a write while the budget of samples is in debt.
func (st *state) checkSamples(now time.Time, l *limits.Limits, r *rates) *Rejection {
	wait, ok := st.samples.open(now, r.samples, r.sampleBurst, 0)
	if ok {
		return nil
	}
	e := limits.SamplesPerSecond.Exceeded(l, whole(-st.samples.tokens))
	if st.reserved >= 0.5 {
		e = e.With(fmt.Sprintf(", with %.0f that requests under way are expected to have", st.reserved))
	}
	return st.tooMany(e, wait)
}

// whole is a number of samples or bytes without its fraction.
func whole(v float64) int64 { return int64(math.RoundToEven(v)) }

// done gives back an admitted request and charges what is known only now: samples
// written in place of those reserved, and the bytes of the body that came in place of
// those announced.
func (st *state) done(now time.Time, length int64, reserved float64, o Outcome) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(&st.limits)
	st.admitted--
	// What was charged is the length that was announced: nothing if none was. What did
	// not come is given back, so that announcing alone puts no tenant in debt.
	if more := float64(o.Read - max(length, 0)); more != 0 {
		st.bytes.take(now, r.bytes, r.byteBurst, more)
		st.asked[budget.Bytes] += more
	}
	st.settle(now, &r, reserved, o)
	if n := max(o.Samples, 0) + o.Beside; n > 0 {
		st.use.samples += uint64(n)
		st.asked[budget.Samples] += float64(n)
		st.learn(o)
	}
	st.use.bytes += uint64(max(o.Read, 0))
}

// tooMany rejects what may come again later. The text says what, how much, and what was
// used.
func (st *state) tooMany(e *limits.Exceeded, wait time.Duration) *Rejection {
	if st.gateways > 1 {
		e = e.With(fmt.Sprintf(" at this one of %d gateways, which share the limit", st.gateways))
	}
	return &Rejection{Limit: e.Name(), Text: e.Error(), Retry: max(wait, time.Millisecond)}
}

// BodyTooLarge rejects a request whose body has more bytes than the limit; bytes may be
// limits.More.
func BodyTooLarge(limit, bytes int64) *Rejection {
	e := limits.MaxBodyBytes.ExceededAt(limit, bytes)
	return &Rejection{Limit: e.Name(), Text: e.Error()}
}
