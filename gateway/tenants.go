package gateway

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	tenantShards = 64
	// An idle tenant with full buckets is as one never seen; it is dropped.
	tenantIdle  = 5 * time.Minute
	sweepPeriod = time.Minute
)

// tenantStates holds the budgets of the tenants that were active lately, in at
// most max entries.
type tenantStates struct {
	perShard int
	shards   [tenantShards]tenantShard
	sharing  atomic.Pointer[sharing]
}

// sharing is which part of the limits this gateway may use.
type sharing struct {
	byID     map[tenant.ID]budget.Share // not to be changed
	rest     budget.Share
	gateways int
}

func (s *sharing) of(id tenant.ID) budget.Share {
	if share, ok := s.byID[id]; ok {
		return share
	}
	return s.rest
}

type tenantShard struct {
	mu    sync.Mutex
	byID  map[tenant.ID]*tenantState
	swept time.Time
}

// tenantState are the budgets of one tenant, and what it used of them.
type tenantState struct {
	seen time.Time // guarded by the shard

	mu       sync.Mutex
	limits   limits.Limits // as of the last request
	requests bucket
	samples  bucket
	bytes    bucket
	admitted int // requests between admit and done
	inflight int // of these, those between enter and leave
	use      tenantUse
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

// tenantUse is counted since the entry was made.
type tenantUse struct {
	requests, refused uint64
	samples, bytes    uint64
}

func newTenantStates(max int) *tenantStates {
	t := &tenantStates{perShard: max/tenantShards + 1}
	for i := range t.shards {
		t.shards[i].byID = make(map[tenant.ID]*tenantState)
	}
	t.sharing.Store(&sharing{rest: budget.Whole(), gateways: 1})
	return t
}

// get returns the state of a tenant, made if need be.
func (t *tenantStates) get(id tenant.ID, now time.Time) *tenantState {
	s := &t.shards[xxhash.Sum64String(string(id))%tenantShards]
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
		st = &tenantState{}
		s.byID[id] = st
	}
	st.seen = now
	return st
}

func (s *tenantShard) sweep(now time.Time) {
	for id, st := range s.byID {
		if now.Sub(st.seen) > tenantIdle && st.idle(now) {
			delete(s.byID, id)
		}
	}
}

// evict drops the entry that was not seen for longest, its debt with it: memory
// is bounded first.
func (s *tenantShard) evict() {
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
func (st *tenantState) scaled(l *limits.Limits) rates {
	s := &st.share
	r := rates{
		requests: l.RequestsPerSecond * s.Rate[budget.Requests], requestBurst: part(l.RequestsPerSecond, l.RequestBurst, s.Burst[budget.Requests]),
		samples: l.SamplesPerSecond * s.Rate[budget.Samples], sampleBurst: part(l.SamplesPerSecond, l.SampleBurst, s.Burst[budget.Samples]),
		bytes: l.BytesPerSecond * s.Rate[budget.Bytes], byteBurst: part(l.BytesPerSecond, l.ByteBurst, s.Burst[budget.Bytes]),
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

func (st *tenantState) idle(now time.Time) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(&st.limits)
	return st.admitted == 0 &&
		st.requests.full(now, r.requests, r.requestBurst) &&
		st.samples.full(now, r.samples, r.sampleBurst) &&
		st.bytes.full(now, r.bytes, r.byteBurst)
}

// admit lets a request in, and charges what is known of its cost, or says which
// limit refuses it. length is the body's, -1 if not known. Whoever is let in
// must be given back with done.
func (st *tenantState) admit(now time.Time, l *limits.Limits, share budget.Share, gateways int, write bool, length int64) *refusal {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.limits, st.share, st.gateways = *l, share, gateways
	st.use.requests++
	st.asked[budget.Requests]++
	st.asked[budget.Bytes] += float64(max(length, 0))
	ref := st.check(now, l, write, length)
	if ref != nil {
		st.use.refused++
		if write { // what it would have cost nobody knows
			st.asked[budget.Samples] += st.perWrite
		}
		return ref
	}
	if length > 0 {
		r := st.scaled(l)
		st.bytes.take(now, r.bytes, r.byteBurst, float64(length))
	}
	st.admitted++
	return nil
}

// enter takes one of the tenant's places for requests under way, which leave gives
// back. The request's body has arrived by then.
func (st *tenantState) enter(l *limits.Limits) *refusal {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := st.scaled(l).n; n > 0 && st.inflight >= n {
		st.use.refused++
		return st.tooMany(limits.MaxConcurrentRequests.Exceeded(l, int64(st.inflight)), time.Second)
	}
	st.inflight++
	return nil
}

func (st *tenantState) leave() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.inflight--
}

func (st *tenantState) check(now time.Time, l *limits.Limits, write bool, length int64) *refusal {
	r := st.scaled(l)
	if wait, ok := st.requests.open(now, r.requests, r.requestBurst, 1); !ok {
		return st.tooMany(limits.RequestsPerSecond.Exceeded(l, int64(st.inflight)), wait)
	}
	st.requests.take(now, r.requests, r.requestBurst, 1)
	if l.MaxBodyBytes > 0 && length > l.MaxBodyBytes {
		return tooLarge(l.MaxBodyBytes, length)
	}
	if write {
		if f := st.checkSamples(now, l, &r); f != nil {
			return f
		}
	}
	if length != 0 {
		if wait, ok := st.bytes.open(now, r.bytes, r.byteBurst, 0); !ok {
			return st.tooMany(limits.BytesPerSecond.Exceeded(l, whole(-st.bytes.tokens)), wait)
		}
	}
	return nil
}

// checkSamples refuses a write while the budget of samples is in debt.
func (st *tenantState) checkSamples(now time.Time, l *limits.Limits, r *rates) *refusal {
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

// outcome is what a request turned out to cost.
type outcome struct {
	read    int64 // bytes of the body
	samples int64 // that a write had; may be untold
	beside  int64 // what it costs beside them, in samples
}

// done gives back an admitted request and charges what is known only now: samples
// written in place of those reserved, and the bytes of the body that came in place of
// those announced.
func (st *tenantState) done(now time.Time, length int64, reserved float64, o outcome) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(&st.limits)
	st.admitted--
	// What was charged is the length that was announced: nothing if none was. What did
	// not come is given back, so that announcing alone puts no tenant in debt.
	if more := float64(o.read - max(length, 0)); more != 0 {
		st.bytes.take(now, r.bytes, r.byteBurst, more)
		st.asked[budget.Bytes] += more
	}
	st.settle(now, &r, reserved, o)
	if n := max(o.samples, 0) + o.beside; n > 0 {
		st.use.samples += uint64(n)
		st.asked[budget.Samples] += float64(n)
		st.learn(o)
	}
	st.use.bytes += uint64(max(o.read, 0))
}

// tooMany is a 429. The message says what, how much, and what was used.
func (st *tenantState) tooMany(e *limits.Exceeded, wait time.Duration) *refusal {
	if st.gateways > 1 {
		e = e.With(fmt.Sprintf(" at this one of %d gateways, which share the limit", st.gateways))
	}
	return &refusal{status: http.StatusTooManyRequests, reason: e.Name(), text: e.Error(), retry: max(wait, time.Millisecond)}
}

// tooLarge is a 413 for a body of so many bytes, or limits.More.
func tooLarge(limit, bytes int64) *refusal {
	e := limits.MaxBodyBytes.ExceededAt(limit, bytes)
	return &refusal{status: http.StatusRequestEntityTooLarge, reason: e.Name(), text: e.Error()}
}
