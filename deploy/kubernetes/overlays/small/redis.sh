#!/bin/sh
# Redis for ring, elections and shares of rate limits: nothing on disk, and full is
# an error, not an eviction. Who uses it may do what it needs (docs/cluster.md) and
# no more. Passwords go into a file, since arguments can be read by everybody.
set -eu
umask 077
{
  echo 'save ""'
  echo 'appendonly no'
  echo 'maxmemory 64mb'
  echo 'maxmemory-policy noeviction'
  echo 'user default off'
  printf 'user pallium-ring on >%s ~{pallium:ring}:* ~pallium:ha:* &{pallium:ring}:changes -@all' "$(cat /run/secrets/redis-password)"
  echo ' +evalsha +eval +time +get +set +hget +hmget +hgetall +hset +hdel +hincrby +publish +subscribe +ping +hello +client +auth'
  printf 'user pallium-cache on >%s ~{pallium:budget} -@all' "$(cat /run/secrets/cache-redis-password)"
  echo ' +evalsha +eval +time +hset +hget +hgetall +hdel +del +pexpire +ping +hello +client +auth'
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
