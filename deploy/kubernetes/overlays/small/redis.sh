#!/bin/sh
# Redis of a cluster: `redis.sh ring` for ring and elections, where a full memory is an
# error, not an eviction; `redis.sh cache BYTES` for shares of rate limits and results of
# queries, which may be evicted. Nothing is stored on disk. Each user has only the rights
# that it needs (docs/cluster.md). Passwords are in a file, since every user can read
# arguments.
set -eu
umask 077
{
  echo 'save ""'
  echo 'appendonly no'
  echo 'user default off'
  case "$1" in
  ring)
    echo 'maxmemory 64mb'
    echo 'maxmemory-policy noeviction'
    printf 'user pallium-ring on >%s ~{pallium:ring}:* ~pallium:ha:* &{pallium:ring}:changes -@all' "$(cat /run/secrets/redis-password)"
    echo ' +evalsha +eval +time +get +set +hget +hmget +hgetall +hset +hdel +hincrby +publish +subscribe +ping +hello +client +auth'
    ;;
  cache)
    echo "maxmemory $2"
    echo 'maxmemory-policy allkeys-lru'
    printf 'user pallium-cache on >%s ~{pallium:budget} -@all' "$(cat /run/secrets/cache-redis-password)"
    echo ' +evalsha +eval +time +hset +hget +hgetall +hdel +del +pexpire +ping +hello +client +auth'
    printf 'user pallium-results on >%s ~pallium:results:* -@all' "$(cat /run/secrets/results-redis-password)"
    echo ' +getrange +set +ping +hello +client +auth'
    ;;
  *)
    echo "redis.sh: unknown use $1: choose ring or cache" >&2
    exit 2
    ;;
  esac
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
