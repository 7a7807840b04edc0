package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/cachetest"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

func subject(t *testing.T, conf redisconn.Config) cachetest.Subject {
	c := client(t, conf, "")
	n := byte('a')
	return cachetest.Subject{
		New: func(t testing.TB) cache.Cache {
			n++ // another cluster, so that the cache is empty
			return start(t, c, Options{Seal: seal(t, string(n)), MaxValueBytes: 1 << 20})
		},
		TooLarge: 1<<20 + 1,
		Settle:   func(t testing.TB, c cache.Cache) { settle(t, c.(*Cache)) },
	}
}

func TestContract(t *testing.T) {
	cachetest.Run(t, subject(t, at(programs.Redis(t).Addr)))
}

// TestContractOfRedisCluster runs the contract with two nodes, each with half of the hash slots.
func TestContractOfRedisCluster(t *testing.T) {
	ctx := context.Background()
	var addrs []string
	for i, slots := range [][2]int{{0, 8191}, {8192, 16383}} {
		_, bus, _ := net.SplitHostPort(kit.FreeAddr(t))
		srv := programs.Redis(t, "--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-config-file", fmt.Sprint("nodes", i, ".conf"))
		node := client(t, at(srv.Addr), "")
		if err := node.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]).Err(); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			first := client(t, at(addrs[0]), "")
			host, port, _ := net.SplitHostPort(srv.Addr)
			if err := first.Do(ctx, "CLUSTER", "MEET", host, port, bus).Err(); err != nil {
				t.Fatal(err)
			}
			for _, n := range []goredis.UniversalClient{first, node} {
				kit.UntilSlow(t, patient, "the nodes know each other", func() bool {
					return strings.Contains(n.ClusterInfo(ctx).Val(), "cluster_state:ok")
				})
			}
		}
		addrs = append(addrs, srv.Addr)
	}
	cachetest.Run(t, subject(t, redisconn.Config{Addresses: addrs, Cluster: true}))
}

// TestManyKeys checks that a call with more keys than one round trip returns all values.
func TestManyKeys(t *testing.T) {
	c := start(t, client(t, at(programs.Redis(t).Addr), ""), Options{})
	var keys []string
	for i := range 5*batchKeys + 1 {
		keys = append(keys, fmt.Sprint(i))
		c.Put(context.Background(), "t", keys[i], []byte(keys[i]))
	}
	settle(t, c)
	got := c.Get(context.Background(), "t", append(keys, "unknown"))
	for _, k := range keys {
		if string(got[k]) != k {
			t.Errorf("key %s: got %q", k, got[k])
		}
	}
	if n := float64(len(keys)); c.put(stored) != n || c.looked(hit) != n || c.looked(absent) != 1 {
		t.Errorf("stored %v, hits %v, absent %v; want %v, %v, 1", c.put(stored), c.looked(hit), c.looked(absent), n, n)
	}
}

// TestManyBytes checks that one call does not use unlimited memory.
func TestManyBytes(t *testing.T) {
	c := start(t, client(t, at(programs.Redis(t).Addr), ""), Options{})
	var keys []string
	for i := range 2 * batchKeys {
		keys = append(keys, fmt.Sprint(i))
		c.Put(context.Background(), "t", keys[i], make([]byte, 8<<20))
		settle(t, c)
	}
	if got := c.Get(context.Background(), "t", keys); len(got) != batchKeys || c.looked(tooLarge) != batchKeys {
		t.Errorf("got %d values, not asked for %v; want %d of both", len(got), c.looked(tooLarge), batchKeys)
	}
}

// TestRedisLearnsNothing checks that Redis has no tenant names, expressions or values in clear
// text, and that values expire.
func TestRedisLearnsNothing(t *testing.T) {
	ctx := context.Background()
	r := client(t, at(programs.Redis(t).Addr), "")
	c := start(t, r, Options{})
	c.Put(ctx, "team-a", "sum(rate(http_requests_total[5m]))", []byte("some result"))
	settle(t, c)
	names, err := r.Keys(ctx, "*").Result()
	if err != nil || len(names) != 1 || !strings.HasPrefix(names[0], prefix) {
		t.Fatalf("names %q, %v", names, err)
	}
	value, err := r.Get(ctx, names[0]).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"team", "http_requests", "result"} {
		if strings.Contains(strings.TrimPrefix(names[0], prefix)+value, secret) {
			t.Errorf("Redis can read %q", secret)
		}
	}
	if ttl, err := r.TTL(ctx, names[0]).Result(); err != nil || ttl <= 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("TTL %v, %v", ttl, err)
	}
}

// TestValuesOfOthers checks that a value is a miss if this cluster did not store it under the name,
// and a hit if the cluster stored it there earlier.
func TestValuesOfOthers(t *testing.T) {
	ctx := context.Background()
	r := client(t, at(programs.Redis(t).Addr), "")
	mine := seal(t, "a")
	name := func(id tenant.ID, key string) string { return prefix + mine.Names(id, key)[0] }
	set := func(value []byte) func() error {
		return func() error { return r.Set(ctx, name("t", "k"), value, 0).Err() }
	}
	copyOf := func(id tenant.ID, key string) func() error {
		return func() error { return r.Copy(ctx, name(id, key), name("t", "k"), 0, true).Err() }
	}
	old := mine.Seal("t", "k", []byte("old"))
	for what, c := range map[string]struct {
		do            func() error
		value, result string
	}{
		"untouched":             {func() error { return nil }, "new", hit},
		"replayed":              {set(old), "old", hit}, // the frontend compares versions
		"emptied":               {func() error { return r.FlushAll(ctx).Err() }, "", absent},
		"garbage":               {set([]byte("garbage")), "", invalid},
		"not sealed":            {set([]byte("new")), "", invalid},
		"damaged":               {set(append(bytes.Clone(old), 0)), "", invalid},
		"forged":                {set(seal(t, "x").Seal("t", "k", []byte("forged"))), "", invalid},
		"of another key":        {copyOf("t", "other"), "", invalid},
		"of another tenant":     {copyOf("other", "k"), "", invalid},
		"larger than any value": {set(make([]byte, 9<<20)), "", invalid},
		"of another type": {func() error {
			return errors.Join(r.Del(ctx, name("t", "k")).Err(), r.HSet(ctx, name("t", "k"), "field", "value").Err())
		}, "", failed},
	} {
		var log bytes.Buffer
		cache := start(t, r, Options{Seal: mine, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err := r.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		cache.Put(ctx, "t", "k", []byte("new"))
		cache.Put(ctx, "t", "other", []byte("of another key"))
		cache.Put(ctx, "other", "k", []byte("of another tenant"))
		settle(t, cache)
		if err := c.do(); err != nil {
			t.Fatal(what, err)
		}
		got, ok := cache.Get(ctx, "t", []string{"k"})["k"]
		if string(got) != c.value || ok != (c.result == hit) || cache.looked(c.result) != 1 {
			t.Errorf("%s: got %q, %t, want %q; counted %v as %s", what, got, ok, c.value, cache.looked(c.result), c.result)
		}
		if strings.Contains(log.String(), "ignoring values") != (c.result == invalid) {
			t.Errorf("%s: log %q", what, log.String())
		}
		if err := cache.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRotation checks that values stay usable while the processes of a cluster replace the
// secret one after the other.
func TestRotation(t *testing.T) {
	r := client(t, at(programs.Redis(t).Addr), "")
	ctx := context.Background()
	old, both := start(t, r, Options{Seal: seal(t, "a")}), start(t, r, Options{Seal: seal(t, "ba")})
	old.Put(ctx, "t", "old", []byte("1"))
	both.Put(ctx, "t", "new", []byte("2"))
	settle(t, old)
	settle(t, both)
	got := both.Get(ctx, "t", []string{"old", "new"})
	if string(got["old"]) != "1" || string(got["new"]) != "2" {
		t.Errorf("with both secrets: got %q", got)
	}
	if got := start(t, r, Options{Seal: seal(t, "b")}).Get(ctx, "t", []string{"old", "new"}); len(got) != 1 || string(got["new"]) != "2" {
		t.Errorf("with the new secret: got %q", got)
	}
}

// TestACL checks that the commands and names in docs/cluster.md are sufficient.
func TestACL(t *testing.T) {
	rights := strings.Fields("results on >secret ~pallium:results:* -@all +getrange +set +hello +client +ping")
	srv := programs.Redis(t, append([]string{"--user"}, rights...)...)
	c := start(t, client(t, redisconn.Config{Addresses: []string{srv.Addr}, Username: "results"}, "secret"), Options{})
	c.Put(context.Background(), "t", "k", []byte("v"))
	settle(t, c)
	if got := c.Get(context.Background(), "t", []string{"k"}); string(got["k"]) != "v" {
		t.Errorf("got %q; %v errors of Get, %v of Put", got, c.looked(failed), c.put(failed))
	}
}
