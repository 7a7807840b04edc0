package redis

import goredis "github.com/redis/go-redis/v9"

// A ring is stored as four hashes, in one slot of a Redis Cluster:
//
//	{P}:members  instance → signature and entry; changes rarely
//	{P}:beats    instance → its last heartbeat
//	{P}:meta     epoch, began (ms), version
//	{P}:gone     instance → signature and removal, when it left or was forgotten
//
// and a channel {P}:changes that notifies watchers. docs/cluster-trust.md describes
// the values. All times are from the clock of Redis. A process needs the commands
// EVALSHA, EVAL, TIME, HGET, HMGET, HGETALL, HSET, HDEL, HINCRBY, PUBLISH and
// SUBSCRIBE.

const now = `local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)
`

// begin starts an epoch in an empty Redis.
const begin = `if not redis.call('HGET', KEYS[3], 'epoch') then
  redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'began', now, 'version', 1)
end
`

// changed increments the version and notifies watchers. If the version cannot be
// incremented because it was overwritten, it restarts at the time of Redis.
const changed = `local version = redis.pcall('HINCRBY', KEYS[3], 'version', 1)
if type(version) == 'table' then
  version = string.format('%.0f', now)
  redis.call('HSET', KEYS[3], 'version', version)
end
redis.call('PUBLISH', ARGV[2], version)
`

// bounded reads a hash without fields larger than any valid one, and at most 32 MiB
// in total, so that garbage written there is not sent to all processes with every
// read.
const bounded = `local function bounded(key, most)
  local all, out, bytes = redis.call('HGETALL', key), {}, 0
  for i = 1, #all, 2 do
    local n = #all[i] + #all[i + 1]
    if n <= most and bytes + n <= 33554432 then
      bytes = bytes + n
      out[#out + 1] = all[i]
      out[#out + 1] = all[i + 1]
    end
  end
  return out
end
`

type scripts struct {
	read, beat, register, restore, remove *goredis.Script
}

func newScripts() scripts {
	return scripts{
		// beat: ARGV instance, SHA-1 of its value, heartbeat. Returns 1, or 0 when the
		// instance has to register (again).
		beat: goredis.NewScript(`local m = redis.call('HGET', KEYS[1], ARGV[1])
if not m or redis.sha1hex(m) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1`),

		// read: ARGV the caller's epoch and version. Returns now, epoch, began, version,
		// beats, and if epoch or version differ from the caller's, members and gone.
		read: goredis.NewScript(now + bounded + `local meta = redis.call('HMGET', KEYS[3], 'epoch', 'began', 'version')
local out = {now, meta[1] or '', meta[2] or '0', meta[3] or '0', bounded(KEYS[2], 512)}
if (meta[1] or '') ~= ARGV[1] or (meta[3] or '0') ~= ARGV[2] then
  out[6] = bounded(KEYS[1], 65536)
  out[7] = bounded(KEYS[4], 65536)
end
return out`),

		// register: ARGV new epoch, channel, instance, value, heartbeat, required
		// version of the ring (empty: any). Returns 0 if the ring has another version.
		register: goredis.NewScript(now + begin + `if ARGV[6] ~= '' and redis.call('HGET', KEYS[3], 'version') ~= ARGV[6] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
` + changed + `return 1`),

		// restore: ARGV new epoch, channel, then for each member whose entry is missing
		// or overwritten in Redis: instance, the entry and the removal that Redis had
		// when the caller read the ring, and the value to write.
		restore: goredis.NewScript(now + begin + `local n = 0
for i = 3, #ARGV, 4 do
  local has = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local gone = redis.call('HGET', KEYS[4], ARGV[i]) or ''
  if has == ARGV[i + 1] and gone == ARGV[i + 2] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 3])
    n = n + 1
  end
end
if n > 0 then
` + changed + `end
return n`),

		// remove: ARGV new epoch, channel, instance, removal, then instance and value
		// of each expired removal to delete.
		remove: goredis.NewScript(now + begin + `redis.call('HDEL', KEYS[2], ARGV[3])
local n = redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
for i = 5, #ARGV, 2 do
  if redis.call('HGET', KEYS[4], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[4], ARGV[i]) end
end
` + changed + `return n`),
	}
}
