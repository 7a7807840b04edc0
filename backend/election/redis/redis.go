// Package redis keeps elections in Redis, where all distributors meet. Each is
// one hash that changes by one script, so that two distributors cannot elect two
// replicas; times are Redis' own. What is in it may be lost at any time: the
// distributors elect again from what they know.
package redis

import (
	"context"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/backend/election"
)

// Store implements election.Store. It is safe for concurrent use.
type Store struct {
	client goredis.UniversalClient
	prefix string
	claim  *goredis.Script
}

// New returns a Store that uses client, which stays the caller's. prefix begins
// the keys; "" is "pallium:ha".
func New(client goredis.UniversalClient, prefix string) *Store {
	if prefix == "" {
		prefix = "pallium:ha"
	}
	return &Store{client: client, prefix: prefix, claim: goredis.NewScript(claimScript)}
}

// claimScript is election.Decide. The hash of a cluster has the fields replica
// and received (Redis' time in ms), and goes when it is idle. ARGV: failover and
// idle in ms, then replica and age in ms of each sighting. It answers replica and
// age, and needs the commands EVALSHA, EVAL, TIME, HMGET, HSET and PEXPIREAT.
const claimScript = `local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
local failover = tonumber(ARGV[1])
local held = redis.call('HMGET', KEYS[1], 'replica', 'received')
local replica, age = held[1], 0
if replica then
  age = math.max(0, now - tonumber(held[2]))
  for i = 3, #ARGV, 2 do
    if ARGV[i] == replica then age = math.min(age, tonumber(ARGV[i + 1])) end
  end
end
if not replica or age > failover then
  for i = 3, #ARGV, 2 do
    if tonumber(ARGV[i + 1]) <= failover then
      replica, age = ARGV[i], tonumber(ARGV[i + 1])
      break
    end
  end
end
if not replica then
  if #ARGV < 4 then return {'', 0} end
  replica, age = ARGV[3], tonumber(ARGV[4])
end
local received = string.format('%.0f', now - age)
if replica ~= held[1] or received ~= held[2] then
  redis.call('HSET', KEYS[1], 'replica', replica, 'received', received)
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now - age + tonumber(ARGV[2])))
end
return {replica, age}`

// Claim implements election.Store. Ages are counted in milliseconds, rounded so
// that nothing is taken for fresher than it is.
func (s *Store) Claim(ctx context.Context, c election.Cluster, seen []election.Sighting, r election.Rules) (election.Sighting, error) {
	// The alphabet of tenants has no colon, so that the key says whose it is.
	key := s.prefix + ":" + string(c.Tenant) + ":" + c.Name
	args := []any{r.Failover.Milliseconds(), r.Idle.Milliseconds()}
	for _, v := range seen {
		args = append(args, v.Replica, ceil(v.Age))
	}
	answer, err := s.claim.Run(ctx, s.client, []string{key}, args...).Slice()
	if err != nil {
		return election.Sighting{}, fmt.Errorf("elect a replica of cluster %q: %w", c.Name, err)
	}
	if len(answer) != 2 {
		return election.Sighting{}, fmt.Errorf("elect a replica of cluster %q: an answer of %d parts", c.Name, len(answer))
	}
	replica, isText := answer[0].(string)
	age, isNumber := answer[1].(int64)
	if !isText || !isNumber {
		return election.Sighting{}, fmt.Errorf("elect a replica of cluster %q: an answer of %T and %T", c.Name, answer[0], answer[1])
	}
	return election.Sighting{Replica: replica, Age: time.Duration(age) * time.Millisecond}, nil
}

func ceil(d time.Duration) int64 {
	return (d + time.Millisecond - 1).Milliseconds()
}
