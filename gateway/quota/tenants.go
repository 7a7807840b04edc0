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
	// The state of an idle tenant with full buckets is dropped: new buckets are also full.
	tenantIdle  = 5 * time.Minute
	sweepPeriod = time.Minute
)

// Tenants holds the budgets of recently active tenants. It is safe for concurrent use and
// starts no goroutines.
type Tenants struct {
	now      func() time.Time
	perShard int
	shards   [shardCount]shard
	sharing  atomic.Pointer[sharing]
	tokens   tokens
}

type shard struct {
	mu    sync.Mutex
	byID  map[tenant.ID]*state
	swept time.Time
}

// state holds the budgets of one tenant and its use of them.
type state struct {
	seen time.Time // guarded by the shard

	mu       sync.Mutex
	limits   limits.Limits // as of the last request
	requests bucket
	samples  bucket
	bytes    bucket
	admitted int // requests between admit and done
	inflight int // requests between enter and leave
	use      usage
	share    budget.Share
	gateways int

	asked      budget.Use // since the last updateDemand, in requests, samples and bytes
	demandAt   time.Time
	demand     budget.Use // per second, smoothed
	perWrite   float64    // samples per write, smoothed
	perByte    float64    // samples per byte of a write's body, smoothed; 0: unknown
	reserved   float64    // estimated samples of writes in progress
	unreported bool       // the backend does not report the number of samples
}

// usage is counted since the state was created.
type usage struct {
	requests, rejected uint64
	samples, bytes     uint64
}

// NewTenants returns budgets for about max tenants. Beyond that, the least recently used
// ones are dropped.
func NewTenants(max int, now func() time.Time) *Tenants {
	t := &Tenants{now: now, perShard: max/shardCount + 1, tokens: tokens{inflight: map[string]int{}}}
	for i := range t.shards {
		t.shards[i].byID = make(map[tenant.ID]*state)
	}
	t.sharing.Store(&sharing{rest: budget.Whole(), gateways: 1})
	return t
}

// get returns the state of a tenant and creates it if necessary.
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

// evict drops the least recently used entry, including its debt: the bound of memory is
// more important.
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

// rates are this gateway's share of a tenant's limits.
type rates struct {
	requests, samples, bytes                float64
	requestBurst, sampleBurst, byteBurst, n int // n is the number of concurrent requests
}

// scaled returns this gateway's share of the limits. Bursts are shared, too, so that all
// gateways together allow one burst; concurrent requests are shared equally.
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

// part returns a share of a burst, or of one second's tokens if no burst is set; at least
// 1. For a share of 1 it returns burst unchanged.
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

// admit admits a request and charges the cost that is known, or returns the limit that
// the request exceeds. `done` must be called for every admitted request.
func (st *state) admit(now time.Time, r *Request, share budget.Share, gateways int) *Rejection {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.limits, st.share, st.gateways = *r.Limits, share, gateways
	st.use.requests++
	st.asked[budget.Requests]++
	st.asked[budget.Bytes] += float64(max(r.Length, 0))
	if rej := st.check(now, r); rej != nil {
		st.use.rejected++
		if r.Cost == routes.Samples { // its number of samples is unknown
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

// enter counts a request whose body has arrived as one of the tenant's concurrent
// requests, until `leave`.
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
		e = e.With(fmt.Sprintf(", including %.0f that requests in progress are expected to contain", st.reserved))
	}
	return st.tooMany(e, wait)
}

// whole rounds a number of samples or bytes to an integer.
func whole(v float64) int64 { return int64(math.RoundToEven(v)) }

// done ends an admitted request and charges its actual cost: the written samples replace
// the reserved samples, and the received bytes of the body replace Content-Length.
func (st *state) done(now time.Time, length int64, reserved float64, o Outcome) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(&st.limits)
	st.admitted--
	// admit has charged Content-Length, or nothing without one. Charge the difference to the bytes
	// that were received, so that a mere announcement puts no tenant in debt.
	if more := float64(o.Read - max(length, 0)); more != 0 {
		st.bytes.take(now, r.bytes, r.byteBurst, more)
		st.asked[budget.Bytes] += more
	}
	st.replaceReservation(now, &r, reserved, o)
	if n := max(o.Samples, 0) + o.Extra; n > 0 {
		st.use.samples += uint64(n)
		st.asked[budget.Samples] += float64(n)
		st.learn(o)
	}
	st.use.bytes += uint64(max(o.Read, 0))
}

// tooMany returns a rejection with 429. The text contains the limit, its value and the
// current use.
func (st *state) tooMany(e *limits.Exceeded, wait time.Duration) *Rejection {
	if st.gateways > 1 {
		e = e.With(fmt.Sprintf(" at this gateway, which shares the limit with the others of %d gateways", st.gateways))
	}
	return &Rejection{Limit: e.Name(), Text: e.Error(), Retry: max(wait, time.Millisecond)}
}

// BodyTooLarge returns the rejection of a body with more bytes than the limit; bytes may
// be limits.More.
func BodyTooLarge(limit, bytes int64) *Rejection {
	e := limits.MaxBodyBytes.ExceededAt(limit, bytes)
	return &Rejection{Limit: e.Name(), Text: e.Error()}
}
