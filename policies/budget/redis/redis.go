// Package redis exchanges demand between gateways through one hash in Redis, with one field for
// each gateway that contains its time, signature and demand. An exchange after the first is one
// round trip, unless Redis has lost the script. It uses the commands EVALSHA, EVAL, TIME, HSET,
// HGET, HGETALL, HDEL, DEL and PEXPIRE on one key, and tolerates the loss of all data at any time.
// Other clients may be able to write to the key: fields that are not signed by a gateway of this
// cluster are ignored and deleted.
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

// Signer signs the demand of this gateway and verifies that of others. An error of Verify
// means that the signature is not a valid one of a member of the cluster.
type Signer interface {
	Sign(purpose string, parts ...string) (string, error)
	Verify(signature, host, purpose string, parts ...string) (aged bool, err error)
}

const (
	purpose = "demand of a gateway"

	aliveFor = 2 * time.Second // time since its last exchange after which a gateway is not live
	// maxApart is the maximum difference between the time of a field and the time of Redis.
	// Gateways use the time of Redis, so the difference is only milliseconds unless a gateway's
	// clock jumps.
	maxApart = 10 * time.Second
	// maxGateways bounds the live gateways; a cluster has a few dozen.
	maxGateways = 1000
	// maxDeletions bounds the fields that one exchange deletes.
	maxDeletions = 5000
)

// script deletes the fields ARGV[3], ARGV[5] and so on if their values still have the SHA-1 that
// follows each, sets the field ARGV[1] to ARGV[2] unless that is empty, and returns the time of
// Redis in ms, the number of fields that it deleted because they are larger than any gateway's, and
// the remaining fields and values: at most 64 MiB, and in any case those of ARGV[1].
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

// Options are the options of New. All are optional.
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
	redis  int64     // time of Redis at the last exchange, in Unix ms; 0 before the first
	at     time.Time // local time of the last exchange
	known  map[string]told
	junk   []any // fields to delete, each followed by the SHA-1 of its value
	logged time.Time
}

// told is the last published demand of a gateway, with the time of Redis.
type told struct {
	at      int64 // Unix ms
	demands budget.Demands
}

var _ budget.Exchange = (*Exchange)(nil)

// New returns an exchange. The caller closes the client.
func New(client goredis.UniversalClient, key string, signer Signer, o Options) *Exchange {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Exchange{client: client, key: "{" + key + "}", signer: signer, script: goredis.NewScript(script), o: o, known: map[string]told{}}
	e.ignored = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pallium_gateway_budget_ignored_fields_total",
		Help: "Fields in Redis that were ignored because they are not valid values of a gateway of this cluster, by reason " +
			"(damaged, forged, future)."}, []string{"reason"})
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
	if e.redis == 0 { // the signature includes the time of Redis
		if _, err := e.run(ctx, id, ""); err != nil {
			return nil, fmt.Errorf("share rate limits: read the time of Redis: %w", err)
		}
	}
	value, err := e.sign(id, mine)
	if err != nil {
		return nil, fmt.Errorf("share rate limits: %w", err)
	}
	fields, err := e.run(ctx, id, value)
	if err != nil {
		return nil, fmt.Errorf("share rate limits: %w", err)
	}
	e.learn(id, fields)
	if len(e.known) > maxGateways {
		return nil, fmt.Errorf("share rate limits: %d gateways are live, but at most %d are supported", len(e.known), maxGateways)
	}
	out := make(map[string]budget.Demands, len(e.known)+1)
	for other, t := range e.known {
		out[other] = t.demands
	}
	out[id] = mine // even if it was overwritten in Redis
	return out, nil
}

// run runs the script, stores the time of Redis, and returns alternating fields and
// values.
func (e *Exchange) run(ctx context.Context, id, value string) ([]string, error) {
	args := append([]any{id, value}, e.junk...)
	list, err := e.script.Run(ctx, e.client, []string{e.key}, args...).StringSlice()
	if err != nil {
		return nil, err
	}
	if len(list) < 2 || len(list)%2 != 0 {
		return nil, fmt.Errorf("the script returned %d values", len(list))
	}
	now, err := strconv.ParseInt(list[0], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("parse the time of Redis: %w", err)
	}
	large, err := strconv.Atoi(list[1])
	if err != nil {
		return nil, fmt.Errorf("parse the number of deleted fields: %w", err)
	}
	e.redis, e.at, e.junk = now, e.o.Now(), nil
	if large > 0 {
		e.ignored.WithLabelValues(damaged).Add(float64(large))
		e.log(damaged, large)
	}
	return list[2:], nil
}

// learn stores the demand of other gateways, and collects the fields to delete.
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
		// The field of a gateway that is not live is deleted later: it may only be slow.
		if err != nil || e.redis-t.at > maxApart.Milliseconds() {
			if field != id && len(e.junk) < 2*maxDeletions {
				sum := sha1.Sum([]byte(value)) // as in the script; only detects that the field has changed
				e.junk = append(e.junk, field, hex.EncodeToString(sum[:]))
			}
			continue
		}
		// A value older than the last one is a replay.
		if alive(t.at, e.redis) && t.at >= e.known[field].at {
			e.known[field] = t
		}
	}
	for reason, n := range ignored {
		e.ignored.WithLabelValues(reason).Add(float64(n))
		e.log(reason, n)
	}
}

// alive reports whether a gateway that published at the time `at` is live.
func alive(at, now int64) bool {
	return now-at <= aliveFor.Milliseconds() && at-now <= maxApart.Milliseconds()
}

// log logs ignored fields, at most once per minute.
func (e *Exchange) log(reason string, n int) {
	now := e.o.Now()
	if !e.logged.IsZero() && now.Sub(e.logged) < time.Minute {
		return
	}
	e.logged = now
	e.o.Logger.Warn("ignored and deleted fields in Redis that are not valid values of a gateway of this cluster",
		"key", e.key, "reason", reason, "fields", n)
}

// reasonOf returns the reason for the metric.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, errFuture):
		return future
	case errors.Is(err, errDamaged):
		return damaged
	}
	return forged
}
