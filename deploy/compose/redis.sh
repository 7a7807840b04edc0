#!/bin/sh
# Redis for ring, elections and shares of rate limits: nothing is stored on disk,
# and a full memory is an error, not an eviction. Each user has only the rights that it
# needs (docs/cluster.md). Passwords are in a file, since every user can read arguments.
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
