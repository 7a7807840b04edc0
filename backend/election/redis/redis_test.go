package redis

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/test/emulator"
)

// Ages are minutes and the failover time lies between two of them, so that what
// a test takes does not matter.
var rules = election.Rules{Failover: 150 * time.Second, Idle: 10 * time.Hour}

func open(t *testing.T, addr string) *Store {
	t.Helper()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return New(client, "")
}

func minutes(s election.Sighting) string {
	return fmt.Sprintf("%s %d", s.Replica, int(s.Age.Minutes()))
}

// TestSameAsDecide: the script and election.Decide come to the same, whatever is
// seen in whatever order.
func TestSameAsDecide(t *testing.T) {
	srv := emulator.Redis(t)
	stores := []*Store{open(t, srv.Addr), open(t, srv.Addr)}
	rnd := rand.New(rand.NewSource(1))
	want := map[election.Cluster]*election.Sighting{}
	for i := range 3000 {
		c := election.Cluster{Tenant: "team", Name: fmt.Sprint("cluster:", rnd.Intn(300))}
		var seen []election.Sighting
		for range rnd.Intn(3) {
			seen = append(seen, election.Sighting{Replica: string(rune('a' + rnd.Intn(3))), Age: time.Duration(rnd.Intn(5)) * time.Minute})
		}
		decided := election.Decide(want[c], seen, rules.Failover)
		if decided.Replica != "" {
			want[c] = &decided
		}
		got, err := stores[i%2].Claim(context.Background(), c, seen, rules)
		if err != nil {
			t.Fatal(err)
		}
		if minutes(got) != minutes(decided) {
			t.Fatalf("step %d, seen %v: Redis elects %s, the rule %s", i, seen, minutes(got), minutes(decided))
		}
	}
}

func TestTenantsApart(t *testing.T) {
	srv := emulator.Redis(t)
	s := open(t, srv.Addr)
	for _, c := range []election.Cluster{{Tenant: "a", Name: "b:c"}, {Tenant: "a", Name: "b"}, {Tenant: "b", Name: "b"}, {Tenant: "a", Name: "b:"}} {
		replica := fmt.Sprintf("%s/%s", c.Tenant, c.Name)
		got, err := s.Claim(context.Background(), c, []election.Sighting{{Replica: replica}}, rules)
		if err != nil || got.Replica != replica {
			t.Errorf("%s: %v, %v", replica, got, err)
		}
	}
}

// TestForgotten: idle elections leave Redis by themselves, and a clock that was
// set back does not keep a silent replica elected.
func TestForgotten(t *testing.T) {
	srv := emulator.Redis(t)
	s := open(t, srv.Addr)
	ctx := context.Background()
	c := election.Cluster{Tenant: "team", Name: "x"}
	claim := func(seen ...election.Sighting) string {
		t.Helper()
		got, err := s.Claim(ctx, c, seen, rules)
		if err != nil {
			t.Fatal(err)
		}
		return minutes(got)
	}
	claim(election.Sighting{Replica: "a"})
	if d, err := s.client.PTTL(ctx, "pallium:ha:team:x").Result(); err != nil || d <= 0 || d > rules.Idle {
		t.Errorf("the election lives for %v, %v", d, err)
	}
	if err := s.client.HSet(ctx, "pallium:ha:team:x", "received", time.Now().Add(time.Hour).UnixMilli()).Err(); err != nil {
		t.Fatal(err)
	}
	if got := claim(election.Sighting{Replica: "b"}); got != "a 0" {
		t.Errorf("elected is %s", got)
	}
	if v, err := s.client.HGet(ctx, "pallium:ha:team:x", "received").Int64(); err != nil || v > time.Now().Add(30*time.Minute).UnixMilli() {
		t.Errorf("received is still in the future: %d, %v", v, err)
	}
}

func TestRedisLost(t *testing.T) {
	srv := emulator.Redis(t)
	s := open(t, srv.Addr)
	c := election.Cluster{Tenant: "team", Name: "x"}
	claim := func(replica string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		got, err := s.Claim(ctx, c, []election.Sighting{{Replica: replica}}, rules)
		return got.Replica, err
	}
	if got, err := claim("a"); got != "a" || err != nil {
		t.Fatal(got, err)
	}
	srv.Kill()
	if got, err := claim("a"); err == nil {
		t.Errorf("a lost Redis elected %q", got)
	}
	srv.Start()
	if got, err := claim("b"); got != "b" || err != nil {
		t.Errorf("an empty Redis elected %q, %v", got, err)
	}
}
