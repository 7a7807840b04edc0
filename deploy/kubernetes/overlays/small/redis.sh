#!/bin/sh
# Redis for the ring: nothing on disk, and full is an error, not an eviction.
# The password goes into a file, since arguments can be read by everybody.
set -eu
umask 077
{
  echo 'save ""'
  echo 'appendonly no'
  echo 'maxmemory 64mb'
  echo 'maxmemory-policy noeviction'
  printf 'requirepass %s\n' "$(cat /run/secrets/redis-password)"
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
