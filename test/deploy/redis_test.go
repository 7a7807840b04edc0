package deploy

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	members "github.com/palliumhq/pallium/authn/cluster"
	cacheredis "github.com/palliumhq/pallium/backend/cache/redis"
	"github.com/palliumhq/pallium/backend/cache/sealed"
	"github.com/palliumhq/pallium/backend/election"
	electionredis "github.com/palliumhq/pallium/backend/election/redis"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	budgetredis "github.com/palliumhq/pallium/policies/budget/redis"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// redisOf starts a Redis as redis.sh does, and returns a function that opens clients of it.
func redisOf(t *testing.T, args ...string) func(user, password string) goredis.UniversalClient {
	t.Helper()
	dir := t.TempDir()
	for name, password := range map[string]string{
		"redis-password": "of-the-ring", "cache-redis-password": "of-the-cache", "results-redis-password": "of-the-results",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "redis.conf")
	script := strings.NewReplacer("/run/secrets/", dir+"/", "/tmp/redis.conf", conf, "exec redis-server", ": ").Replace(string(read(t, "deploy/compose/redis.sh")))
	if out, err := exec.Command("sh", append([]string{"-c", script, "redis.sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	srv := programs.Redis(t, "--include", conf)
	return func(user, password string) goredis.UniversalClient {
		t.Helper()
		client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}, Username: user}, password)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
}

func clusterSigner(t *testing.T) *members.Member {
	t.Helper()
	secrets, err := members.ParseSecrets(strings.Repeat("s", members.MinSecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := members.New(members.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func rejected(t *testing.T, calls map[string]error) {
	t.Helper()
	for what, err := range calls {
		if err == nil {
			t.Errorf("%s: allowed", what)
		}
	}
}

// TestRedisOfRing starts the Redis of the ring that redis.sh creates: its user has the
// permissions that backends need.
func TestRedisOfRing(t *testing.T) {
	ctx, open, signer := context.Background(), redisOf(t, "ring"), clusterSigner(t)
	forRing := open("pallium-ring", "of-the-ring")
	c, seen, rules := election.Cluster{Tenant: "a", Name: "b"}, []election.Sighting{{Replica: "r"}}, election.Rules{Failover: 1 << 40, Idle: 1 << 41}
	if _, err := electionredis.New(forRing, signer, electionredis.Options{}).Claim(ctx, c, seen, rules); err != nil {
		t.Errorf("elections: %v", err)
	}
	m, err := ringredis.Open(ringredis.Options{Client: forRing, Signer: signer, Self: ring.Instance{ID: "i", Addr: "127.0.0.1:1"}, File: filepath.Join(t.TempDir(), "ring.json")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Join(ctx, ring.Active); err != nil {
		t.Errorf("the ring: %v", err)
	}
	rejected(t, map[string]error{
		"the ring's user takes shares":       forRing.HSet(ctx, "{pallium:budget}", "a", "b").Err(),
		"the ring's user stores results":     forRing.Set(ctx, "pallium:results:a", "b", 0).Err(),
		"the ring's user empties the server": forRing.FlushAll(ctx).Err(),
		"the ring's user, another password":  open("pallium-ring", "of-the-cache").Ping(ctx).Err(),
		"the cache's user":                   open("pallium-cache", "of-the-cache").Ping(ctx).Err(),
		"the user of results":                open("pallium-results", "of-the-results").Ping(ctx).Err(),
		"the default user":                   open("", "of-the-ring").Ping(ctx).Err(),
		"nobody":                             open("", "").Ping(ctx).Err(),
	})
}

// TestRedisOfCache starts the Redis for values that may be evicted: gateways have one user,
// backends another one, and neither has permissions for the other's keys.
func TestRedisOfCache(t *testing.T) {
	ctx, open, signer := context.Background(), redisOf(t, "cache", "16mb"), clusterSigner(t)
	forShares, forResults := open("pallium-cache", "of-the-cache"), open("pallium-results", "of-the-results")
	if _, err := budgetredis.New(forShares, "pallium:budget", signer, budgetredis.Options{}).Exchange(ctx, "a", nil); err != nil {
		t.Errorf("shares of rate limits: %v", err)
	}
	seal, err := sealed.New([][]byte{bytes.Repeat([]byte("k"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	results := cacheredis.New(forResults, cacheredis.Options{Seal: seal, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	defer results.Close()
	results.Put(ctx, "a", "key", []byte("result"))
	kit.Until(t, "the result is in Redis", func() bool { return len(results.Get(ctx, "a", []string{"key"})) == 1 })
	for i := range 32 { // more than fits: older values are evicted
		if err := forResults.Set(ctx, "pallium:results:"+strconv.Itoa(i), make([]byte, 1<<20), time.Hour).Err(); err != nil {
			t.Fatalf("a full cache: %v", err)
		}
	}
	rejected(t, map[string]error{
		"the user of shares elects":              forShares.Set(ctx, "pallium:ha:a:b", "x", 0).Err(),
		"the user of shares reads results":       forShares.GetRange(ctx, "pallium:results:a", 0, 1).Err(),
		"the user of results reads shares":       forResults.HGetAll(ctx, "{pallium:budget}").Err(),
		"the user of results lists keys":         forResults.Keys(ctx, "*").Err(),
		"the user of results empties the server": forResults.FlushAll(ctx).Err(),
		"the user of results, another password":  open("pallium-results", "of-the-cache").Ping(ctx).Err(),
		"the ring's user":                        open("pallium-ring", "of-the-ring").Ping(ctx).Err(),
		"the default user":                       open("", "of-the-cache").Ping(ctx).Err(),
		"nobody":                                 open("", "").Ping(ctx).Err(),
	})
}
