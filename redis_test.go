package main

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/backend/redisconn"
)

// TestRedisPasswords checks that each of the two Redis servers gets its own password, and
// that the cache's defaults to the ring's.
func TestRedisPasswords(t *testing.T) {
	for name, c := range map[string]struct {
		env         map[string]string
		ring, cache string
	}{
		"one":   {map[string]string{"PALLIUM_REDIS_PASSWORD": "a"}, "a", "a"},
		"two":   {map[string]string{"PALLIUM_REDIS_PASSWORD": "a", "PALLIUM_CACHE_REDIS_PASSWORD": "b"}, "a", "b"},
		"files": {map[string]string{"PALLIUM_REDIS_PASSWORD_FILE": writeFile(t, "a\n"), "PALLIUM_CACHE_REDIS_PASSWORD_FILE": writeFile(t, "b\n")}, "a", "b"},
		"both":  {map[string]string{"PALLIUM_REDIS_PASSWORD": "a", "PALLIUM_REDIS_PASSWORD_FILE": "/none"}, "a", "a"}, // as for other secrets
		"none":  {nil, "", ""},
	} {
		cfg := testConfig(t)
		cfg.Cluster.Redis = redisconn.Config{Addresses: []string{"127.0.0.1:1"}}
		cfg.Cluster.CacheRedis = redisconn.Config{Addresses: []string{"127.0.0.1:2"}}
		a := &process{cfg: cfg, opts: testOptions(Gateway, c.env, nil)}
		if err := a.openRedis(); err != nil {
			t.Fatal(err)
		}
		for client, want := range map[goredis.UniversalClient]string{a.redis: c.ring, a.cacheRedis: c.cache} {
			if got := client.(*goredis.Client).Options().Password; got != want {
				t.Errorf("%s: password %q, want %q", name, got, want)
			}
			_ = client.Close()
		}
	}
}
