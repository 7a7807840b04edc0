package deploy

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	members "github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/election"
	electionredis "github.com/palliumhq/pallium/backend/election/redis"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	budgetredis "github.com/palliumhq/pallium/policies/budget/redis"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestRedisUsers starts a Redis with the users that redis.sh creates: each user has
// the permissions that its processes need, and none for the other user's keys.
func TestRedisUsers(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	for name, password := range map[string]string{"redis-password": "of-the-ring", "cache-redis-password": "of-the-cache"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "redis.conf")
	script := strings.NewReplacer("/run/secrets/", dir+"/", "/tmp/redis.conf", conf, "exec redis-server", ": ").Replace(string(read(t, "deploy/compose/redis.sh")))
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	srv := programs.Redis(t, "--include", conf)
	open := func(user, password string) goredis.UniversalClient {
		t.Helper()
		client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}, Username: user}, password)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	secrets, err := members.ParseSecrets(strings.Repeat("s", members.MinSecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := members.New(members.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	forRing, forCache := open("pallium-ring", "of-the-ring"), open("pallium-cache", "of-the-cache")
	if _, err := budgetredis.New(forCache, "pallium:budget", signer, budgetredis.Options{}).Exchange(ctx, "a", nil); err != nil {
		t.Errorf("shares of rate limits: %v", err)
	}
	c, seen, rules := election.Cluster{Tenant: "a", Name: "b"}, []election.Sighting{{Replica: "r"}}, election.Rules{Failover: 1 << 40, Idle: 1 << 41}
	if _, err := electionredis.New(forRing, signer, electionredis.Options{}).Claim(ctx, c, seen, rules); err != nil {
		t.Errorf("elections: %v", err)
	}
	m, err := ringredis.Open(ringredis.Options{Client: forRing, Signer: signer, Self: ring.Instance{ID: "i", Addr: "127.0.0.1:1"}, File: filepath.Join(dir, "ring.json")})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Join(ctx, ring.Active); err != nil {
		t.Errorf("the ring: %v", err)
	}
	for what, err := range map[string]error{
		"the cache's user reads the ring":     forCache.HGetAll(ctx, "{pallium:ring}:members").Err(),
		"the cache's user elects":             forCache.Set(ctx, "pallium:ha:a:b", "x", 0).Err(),
		"the ring's user takes shares":        forRing.HSet(ctx, "{pallium:budget}", "a", "b").Err(),
		"the ring's user empties the server":  forRing.FlushAll(ctx).Err(),
		"the ring's user with the other word": open("pallium-ring", "of-the-cache").Ping(ctx).Err(),
		"the default user":                    open("", "of-the-ring").Ping(ctx).Err(),
		"nobody":                              open("", "").Ping(ctx).Err(),
	} {
		if err == nil {
			t.Errorf("%s: allowed", what)
		}
	}
}
