// Package redis exchanges demand between gateways through one hash in Redis: a
// field for each gateway, with its time, its signature and what it was asked for.
// An exchange is one round trip. It needs the commands EVALSHA, EVAL, TIME, HSET,
// HGET, HGETALL, HDEL, DEL and PEXPIRE on one key, and may lose everything at any
// time. Others may write to the key, too: what is not signed by a gateway of this
// cluster counts for nothing and is deleted.
package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/policies/budget"
)

// Signer signs what this gateway tells, and verifies what others tell. An error
// of Verify means that no member of the cluster signed the parts.
type Signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

const (
	purpose = "demand of a gateway"

	aliveFor = 2 * time.Second // since a gateway last told something
	// maxApart is how far the time of a field may be from Redis'. Gateways go by
	// Redis' own, so that only one whose clock jumps sees more than milliseconds.
	maxApart = 10 * time.Second
	// maxGateways bounds those that count; a cluster has a few dozen.
	maxGateways = 1000
	// maxDeletions bounds the fields that one exchange deletes.
	maxDeletions = 5000
)

// script deletes the fields ARGV[3], ARGV[5] and so on if their values still have
// the SHA-1 that follows each, sets the field ARGV[1] to ARGV[2] unless that is
// empty, and answers Redis' time in ms, how many fields it deleted because no
// gateway makes ones of that size, and the fields and values that there are.
const script = `
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local all = redis.pcall('HGETALL', KEYS[1])
if all.err then
  redis.call('DEL', KEYS[1])
end
for i = 3, #ARGV, 2 do
  local v = redis.call('HGET', KEYS[1], ARGV[i])
  if v and redis.sha1hex(v) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], 60000)
end
all = redis.call('HGETALL', KEYS[1])
local out, large, bytes = {now, 0}, 0, 0
for i = 1, #all, 2 do
  local n = #all[i] + #all[i + 1]
  if #all[i] > 256 or #all[i + 1] > 2097152 then
    redis.call('HDEL', KEYS[1], all[i])
    large = large + 1
  elseif bytes + n <= 67108864 or all[i] == ARGV[1] then
    bytes = bytes + n
    out[#out + 1] = all[i]
    out[#out + 1] = all[i + 1]
  end
end
out[2] = tostring(large)
return out`

// Options of an Exchange. All may be left out.
type Options struct {
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Exchange implements budget.Exchange.
type Exchange struct {
	client  goredis.UniversalClient
	key     string
	signer  Signer
	script  *goredis.Script
	o       Options
	ignored *prometheus.CounterVec

	mu     sync.Mutex
	redis  int64     // Redis' time of the last answer, in Unix ms; 0 before the first
	at     time.Time // when that came
	known  map[string]told
	junk   []any // fields to delete and the SHA-1 of their values, in turn
	logged time.Time
}

// told is what a gateway told last, and when by Redis' time.
type told struct {
	at      int64 // Unix ms
	demands budget.Demands
}

var _ budget.Exchange = (*Exchange)(nil)

// New returns an exchange over a client that stays the caller's.
func New(client goredis.UniversalClient, key string, signer Signer, o Options) *Exchange {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Exchange{client: client, key: "{" + key + "}", signer: signer, script: goredis.NewScript(script), o: o, known: map[string]told{}}
	e.ignored = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pallium_gateway_budget_ignored_fields_total",
		Help: "Fields in Redis that no gateway of this cluster wrote as they are, by reason (damaged, forged, future)."}, []string{"reason"})
	for _, reason := range []string{damaged, forged, future} {
		e.ignored.WithLabelValues(reason)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(e.ignored)
	}
	return e
}

// Exchange implements budget.Exchange.
func (e *Exchange) Exchange(ctx context.Context, id string, mine budget.Demands) (map[string]budget.Demands, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.redis == 0 { // what is signed has Redis' time
		if _, err := e.run(ctx, id, ""); err != nil {
			return nil, fmt.Errorf("exchange demand: read Redis' time: %w", err)
		}
	}
	value, err := e.sign(id, mine)
	if err != nil {
		return nil, fmt.Errorf("exchange demand: %w", err)
	}
	fields, err := e.run(ctx, id, value)
	if err != nil {
		return nil, fmt.Errorf("exchange demand: %w", err)
	}
	e.learn(id, fields)
	if len(e.known) > maxGateways {
		return nil, fmt.Errorf("exchange demand: %d gateways tell theirs, at most %d may", len(e.known), maxGateways)
	}
	out := make(map[string]budget.Demands, len(e.known)+1)
	for other, t := range e.known {
		out[other] = t.demands
	}
	out[id] = mine // whatever became of it in Redis
	return out, nil
}

// run runs the script, takes Redis' time from its answer, and returns fields and
// values in turn.
func (e *Exchange) run(ctx context.Context, id, value string) ([]string, error) {
	args := append([]any{id, value}, e.junk...)
	list, err := e.script.Run(ctx, e.client, []string{e.key}, args...).StringSlice()
	if err != nil {
		return nil, err
	}
	if len(list) < 2 || len(list)%2 != 0 {
		return nil, fmt.Errorf("an answer of %d parts", len(list))
	}
	now, err := strconv.ParseInt(list[0], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("time of Redis: %w", err)
	}
	large, err := strconv.Atoi(list[1])
	if err != nil {
		return nil, fmt.Errorf("number of deleted fields: %w", err)
	}
	e.redis, e.at, e.junk = now, e.o.Now(), nil
	if large > 0 {
		e.ignored.WithLabelValues(damaged).Add(float64(large))
		e.log(damaged, large)
	}
	return list[2:], nil
}

// learn takes over what gateways told, and finds what is to be deleted.
func (e *Exchange) learn(id string, fields []string) {
	for other, t := range e.known {
		if !alive(t.at, e.redis) {
			delete(e.known, other)
		}
	}
	ignored := map[string]int{}
	for i := 0; i+1 < len(fields); i += 2 {
		field, value := fields[i], fields[i+1]
		t, err := e.verify(field, value)
		if err != nil {
			ignored[reasonOf(err)]++
		}
		// One that no longer lives is deleted late: it may only be slow.
		if err != nil || e.redis-t.at > maxApart.Milliseconds() {
			if field != id && len(e.junk) < 2*maxDeletions {
				sum := sha1.Sum([]byte(value)) // as Redis has it; it only tells whether the field is still the same
				e.junk = append(e.junk, field, hex.EncodeToString(sum[:]))
			}
			continue
		}
		// An older value than the last one is a repetition.
		if alive(t.at, e.redis) && t.at >= e.known[field].at {
			e.known[field] = t
		}
	}
	for reason, n := range ignored {
		e.ignored.WithLabelValues(reason).Add(float64(n))
		e.log(reason, n)
	}
}

// alive reports whether a gateway lives that told something at a time.
func alive(at, now int64) bool {
	return now-at <= aliveFor.Milliseconds() && at-now <= maxApart.Milliseconds()
}

// log tells of fields that are ignored, at most once a minute.
func (e *Exchange) log(reason string, n int) {
	now := e.o.Now()
	if !e.logged.IsZero() && now.Sub(e.logged) < time.Minute {
		return
	}
	e.logged = now
	e.o.Logger.Warn("ignoring and deleting fields in Redis that no gateway of this cluster wrote", "key", e.key, "reason", reason, "fields", n)
}

// reasonOf is the metric's word for why a field is ignored.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errFuture):
		return future
	case errors.Is(err, errDamaged):
		return damaged
	}
	return forged
}
