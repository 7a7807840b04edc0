package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/cache"
	cachememory "github.com/palliumhq/pallium/backend/cache/memory"
	"github.com/palliumhq/pallium/backend/cache/tiered"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// resultsCacheOf returns the results cache of a backend, which is closed when the test ends.
func resultsCacheOf(t *testing.T, secret string, ring, forCache redisconn.Config) cache.Cache {
	t.Helper()
	cfg := testConfig(t)
	cfg.Cluster.Redis, cfg.Cluster.CacheRedis, cfg.Frontend.CacheBytes = ring, forCache, 1<<20
	env := map[string]string{}
	if secret != "" {
		env["PALLIUM_CLUSTER_SECRET"] = secret
	}
	o := testOptions(Backend, env, nil)
	o.Now = time.Now
	p := newProcess(cfg, o)
	t.Cleanup(func() { _ = p.close() })
	if err := p.openRedis(); err != nil {
		t.Fatal(err)
	}
	if secret != "" {
		if err := p.buildSecurity(); err != nil {
			t.Fatal(err)
		}
	} else {
		p.security = &cluster.Member{} // with certificates only
	}
	c, err := p.resultsCache()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestResultsCacheChoice checks that results are stored in Redis only if cluster.cache_redis and a
// secret that seals them are configured.
func TestResultsCacheChoice(t *testing.T) {
	one, none := redisconn.Config{Addresses: []string{"127.0.0.1:1"}}, redisconn.Config{}
	secret := strings.Repeat("s", cluster.MinSecretBytes)
	for name, c := range map[string]struct {
		secret         string
		ring, forCache redisconn.Config
		redis          bool
	}{
		"a cache":         {secret, one, one, true},
		"no Redis":        {secret, none, none, false},
		"the ring's only": {secret, one, none, false},
		"no secret":       {"", one, one, false},
	} {
		var redis, memory bool
		switch resultsCacheOf(t, c.secret, c.ring, c.forCache).(type) {
		case *tiered.Cache:
			redis = true
		case *cachememory.Cache:
			memory = true
		}
		if redis != c.redis || memory == c.redis {
			t.Errorf("%s: in Redis %t, in memory only %t; want in Redis: %t", name, redis, memory, c.redis)
		}
	}
}

// TestResultsCacheShared checks that the backends of a cluster find each other's results, and that
// backends of another cluster do not.
func TestResultsCacheShared(t *testing.T) {
	srv := redisconn.Config{Addresses: []string{programs.Redis(t).Addr}}
	secret := strings.Repeat("s", cluster.MinSecretBytes)
	ctx := context.Background()
	resultsCacheOf(t, secret, srv, srv).Put(ctx, "t", "k", []byte("v"))
	kit.Until(t, "another backend finds the result", func() bool {
		got := resultsCacheOf(t, secret, srv, srv).Get(ctx, "t", []string{"k"})
		return string(got["k"]) == "v"
	})
	if got := resultsCacheOf(t, strings.Repeat("x", cluster.MinSecretBytes), srv, srv).Get(ctx, "t", []string{"k"}); len(got) != 0 {
		t.Errorf("another cluster got %q", got)
	}
}
