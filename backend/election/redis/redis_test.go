package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// rules has a failover time of two and a half minutes. The tests use ages of whole minutes, so
// that their run time does not matter.
var rules = election.Rules{Failover: 150 * time.Second, Idle: 10 * time.Hour}

func open(t *testing.T, addr string) *Store {
	t.Helper()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return New(client, signer(t, "a"), Options{})
}

// signer returns a member of the cluster whose secret consists of the letter.
func signer(t *testing.T, letter string) Signer {
	t.Helper()
	secrets, err := cluster.ParseSecrets(strings.Repeat(letter, cluster.MinSecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func minutes(s election.Sighting) string {
	return fmt.Sprintf("%s %d", s.Replica, int(s.Age.Minutes()))
}

// TestSameAsDecide checks that elections in Redis have the same outcome as election.Decide,
// for random sightings.
func TestSameAsDecide(t *testing.T) {
	srv := programs.Redis(t)
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
			t.Fatalf("step %d, seen %v: Claim = %s, but Decide = %s", i, seen, minutes(got), minutes(decided))
		}
	}
}

func TestTenantIsolation(t *testing.T) {
	srv := programs.Redis(t)
	s := open(t, srv.Addr)
	for _, c := range []election.Cluster{{Tenant: "a", Name: "b:c"}, {Tenant: "a", Name: "b"}, {Tenant: "b", Name: "b"}, {Tenant: "a", Name: "b:"}} {
		replica := fmt.Sprintf("%s/%s", c.Tenant, c.Name)
		got, err := s.Claim(context.Background(), c, []election.Sighting{{Replica: replica}}, rules)
		if err != nil || got.Replica != replica {
			t.Errorf("Claim of %s = %v, %v", replica, got, err)
		}
	}
}

const key = "pallium:ha:team:x"

// TestExpiry checks that an election has a time to live in Redis of at most the idle time.
func TestExpiry(t *testing.T) {
	srv := programs.Redis(t)
	s := open(t, srv.Addr)
	ctx := context.Background()
	if _, err := s.Claim(ctx, election.Cluster{Tenant: "team", Name: "x"}, []election.Sighting{{Replica: "a"}}, rules); err != nil {
		t.Fatal(err)
	}
	if d, err := s.client.PTTL(ctx, key).Result(); err != nil || d <= 0 || d > rules.Idle {
		t.Errorf("TTL of the election = %v, %v", d, err)
	}
}

// TestInvalidRecords checks that records that no distributor of the cluster signed are
// ignored and replaced, and that a replayed record is not valid for longer than before.
func TestInvalidRecords(t *testing.T) {
	srv := programs.Redis(t)
	ctx := context.Background()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	record := func(letter, key, replica string, ahead time.Duration) string {
		t.Helper()
		text, err := New(client, signer(t, letter), Options{}).sign(key, election.Sighting{Replica: replica}, time.Now().Add(ahead).UnixMilli())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const minute = time.Minute
	for name, c := range map[string]struct {
		set           func() error
		want, ignored string
	}{
		"valid":                            {nil, "a 1", ""},
		"a clock that was set back":        {func() error { return client.Set(ctx, key, record("a", key, "a", 5*time.Second), 0).Err() }, "a 0", ""},
		"replayed after the failover time": {func() error { return client.Set(ctx, key, record("a", key, "a", -3*minute), 0).Err() }, "b 0", ""},
		"idle":                             {func() error { return client.Set(ctx, key, record("a", key, "a", -11*time.Hour), 0).Err() }, "b 0", ""},
		"future":                           {func() error { return client.Set(ctx, key, record("a", key, "a", minute), 0).Err() }, "b 0", future},
		"forged":                           {func() error { return client.Set(ctx, key, record("b", key, "nobody", 0), 0).Err() }, "b 0", forged},
		"of another HA cluster":            {func() error { return client.Set(ctx, key, record("a", key+"y", "a", 0), 0).Err() }, "b 0", forged},
		"another replica":                  {func() error { return client.Set(ctx, key, record("a", key, "a", 0)+"b", 0).Err() }, "b 0", forged},
		"damaged":                          {func() error { return client.Set(ctx, key, "1 x y a", 0).Err() }, "b 0", damaged},
		"not a record":                     {func() error { return client.Set(ctx, key, "junk", 0).Err() }, "b 0", damaged},
		"huge":                             {func() error { return client.Set(ctx, key, strings.Repeat("x", 1<<20), 0).Err() }, "b 0", damaged},
		"of another type": {func() error {
			return client.HSet(ctx, key, "replica", "nobody", "received", time.Now().Add(time.Hour).UnixMilli()).Err()
		}, "b 0", damaged},
	} {
		reg := prometheus.NewRegistry()
		var log bytes.Buffer
		s := New(client, signer(t, "a"), Options{Registerer: reg, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		err := client.Set(ctx, key, record("a", key, "a", -minute), 0).Err()
		if err == nil && c.set != nil {
			err = errors.Join(client.Del(ctx, key).Err(), c.set())
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := s.Claim(ctx, election.Cluster{Tenant: "team", Name: "x"}, []election.Sighting{{Replica: "b"}}, rules)
			if err != nil || minutes(got) != c.want {
				t.Errorf("%s: elected %s, want %s, %v", name, minutes(got), c.want, err)
			}
		}
		counted := ""
		for _, reason := range []string{damaged, forged, future} {
			if testutil.ToFloat64(s.ignored.WithLabelValues(reason)) > 0 {
				counted += reason
			}
		}
		if counted != c.ignored || strings.Count(log.String(), "ignoring") != min(len(c.ignored), 1) {
			t.Errorf("%s: ignored %q, want %q; %s", name, counted, c.ignored, log.String())
		}
	}
}

// TestConcurrentClaims checks that distributors that claim concurrently elect one replica.
func TestConcurrentClaims(t *testing.T) {
	srv := programs.Redis(t)
	s := open(t, srv.Addr)
	for i := range 10 {
		c := election.Cluster{Tenant: "team", Name: fmt.Sprint(i)}
		elected := make(chan string, 30)
		for n := range cap(elected) {
			go func() {
				got, err := s.Claim(context.Background(), c, []election.Sighting{{Replica: fmt.Sprint(n)}}, rules)
				elected <- fmt.Sprint(got.Replica, err)
			}()
		}
		first := <-elected
		for range cap(elected) - 1 {
			if other := <-elected; other != first {
				t.Fatalf("elected both %s and %s", first, other)
			}
		}
	}
}

// TestConcurrentUpdates checks that the claims of many distributors with slightly newer
// samples of the elected replica do not fail because of each other.
func TestConcurrentUpdates(t *testing.T) {
	srv := programs.Redis(t)
	s := open(t, srv.Addr)
	c := election.Cluster{Tenant: "team", Name: "x"}
	errs := make(chan error, 100)
	for n := range cap(errs) {
		go func() {
			age := time.Duration(cap(errs)-n) * 10 * time.Millisecond
			_, err := s.Claim(context.Background(), c, []election.Sighting{{Replica: "a", Age: age}}, rules)
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestACL checks that the commands and keys in docs/cluster.md are sufficient.
func TestACL(t *testing.T) {
	rights := strings.Fields("ha on >secret ~pallium:ha:* -@all +eval +evalsha +time +get +set +hello +client +ping")
	srv := programs.Redis(t, append([]string{"--user"}, rights...)...)
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}, Username: "ha"}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, replica := range []string{"a", "b"} {
		got, err := New(client, signer(t, "a"), Options{}).Claim(context.Background(), election.Cluster{Tenant: "team", Name: "x"}, []election.Sighting{{Replica: replica}}, rules)
		if err != nil || got.Replica != "a" {
			t.Errorf("Claim = %v, %v", got, err)
		}
	}
}

func TestRedisLost(t *testing.T) {
	srv := programs.Redis(t)
	s := open(t, srv.Addr)
	c := election.Cluster{Tenant: "team", Name: "x"}
	claim := func(replica string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		got, err := s.Claim(ctx, c, []election.Sighting{{Replica: replica}}, rules)
		return got.Replica, err
	}
	if got, err := claim("a"); got != "a" || err != nil {
		t.Fatalf("Claim of a = %q, %v", got, err)
	}
	srv.Kill()
	if got, err := claim("a"); err == nil {
		t.Errorf("Claim without Redis = %q, want an error", got)
	}
	srv.Start()
	if got, err := claim("b"); got != "b" || err != nil {
		t.Errorf("Claim with an empty Redis = %q, %v", got, err)
	}
}

// FuzzVerify checks that no text but a signed record is accepted.
func FuzzVerify(f *testing.F) {
	secrets, err := cluster.ParseSecrets(strings.Repeat("a", cluster.MinSecretBytes))
	if err != nil {
		f.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		f.Fatal(err)
	}
	s := New(nil, m, Options{})
	valid, err := s.sign(key, election.Sighting{Replica: "a b", Age: time.Second}, 1_800_000_000_000)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add("1 1799999999000 m a b")
	f.Add("of another type")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := s.verify(key, result{now: 1_800_000_000_000, record: text})
		if err != nil || got == nil {
			return
		}
		if text != valid || got.Replica != "a b" || got.Age != time.Second {
			t.Errorf("verify(%q) = %+v, want an error", text, got)
		}
	})
}
