// Package redis exchanges demand between gateways through one hash in Redis: a
// field for each gateway, with Redis' time and what the gateway was asked for. An
// exchange is one round trip. It needs the commands EVALSHA, EVAL, TIME, HSET,
// HGETALL, HDEL and PEXPIRE on one key, and may lose everything at any time.
package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
)

// Exchange implements budget.Exchange.
type Exchange struct {
	client goredis.UniversalClient
	key    string
	script *goredis.Script
}

var _ budget.Exchange = (*Exchange)(nil)

// New returns an exchange over a client that stays the caller's.
func New(client goredis.UniversalClient, key string) *Exchange {
	return &Exchange{client: client, key: "{" + key + "}", script: goredis.NewScript(`
local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%016d', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], 60000)
local all = redis.call('HGETALL', KEYS[1])
local out = {}
for i = 1, #all, 2 do
  if now - tonumber(string.sub(all[i + 1], 1, 16)) > 2000 then
    redis.call('HDEL', KEYS[1], all[i])
  else
    out[#out + 1] = all[i]
    out[#out + 1] = string.sub(all[i + 1], 17)
  end
end
return out`)}
}

// Exchange implements budget.Exchange.
func (e *Exchange) Exchange(ctx context.Context, id string, mine budget.Demands) (map[string]budget.Demands, error) {
	list, err := e.script.Run(ctx, e.client, []string{e.key}, id, encode(mine)).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("exchange demand: %w", err)
	}
	out := make(map[string]budget.Demands, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		d, err := decode(list[i+1])
		if err != nil {
			return nil, fmt.Errorf("exchange demand: gateway %q: %w", list[i], err)
		}
		out[list[i]] = d
	}
	return out, nil
}

// entryBytes is the size of one entry beside the tenant's ID.
const entryBytes = 1 + 3*4

// encode writes, for each tenant: the length of its ID in one byte, the ID, and
// three little-endian float32.
func encode(d budget.Demands) string {
	b := make([]byte, 0, len(d)*(entryBytes+16))
	for id, u := range d {
		b = append(b, byte(len(id))) // at most 150
		b = append(b, id...)
		for _, v := range u {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
		}
	}
	return string(b)
}

var errDamaged = errors.New("its demands are damaged")

func decode(s string) (budget.Demands, error) {
	out := make(budget.Demands, min(len(s)/entryBytes, budget.MaxTenants))
	for len(s) > 0 {
		n := int(s[0])
		if len(s) < n+entryBytes {
			return nil, errDamaged
		}
		id, err := tenant.ParseID(s[1 : 1+n])
		if err != nil {
			return nil, errDamaged
		}
		var u budget.Use
		for d := range u {
			v := float64(math.Float32frombits(binary.LittleEndian.Uint32([]byte(s[1+n+4*d:]))))
			if math.IsNaN(v) || v < 0 {
				return nil, errDamaged
			}
			u[d] = v
		}
		out[id] = u
		s = s[n+entryBytes:]
	}
	return out, nil
}
