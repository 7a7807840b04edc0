package distributor

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/election/redis"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// electionSigner returns a signer of elections.
func electionSigner(t *testing.T) *cluster.Member {
	t.Helper()
	secrets, err := cluster.ParseSecrets(strings.Repeat("a", cluster.MinSecretBytes))
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestHAFailover follows two replicas and two distributors. Each distributor gets the
// samples of one replica.
func TestHAFailover(t *testing.T) {
	g := newHAGroup(2)
	x, y := g.has[0], g.has[1]
	steps := []struct {
		wait    time.Duration
		replica string
		kept    bool
	}{
		{0, "a", true}, {0, "b", false},
		{14 * time.Second, "a", true}, {0, "b", false},
		{14 * time.Second, "a", true}, {0, "b", false}, // 28 s: a was reported to the store in between
		{14 * time.Second, "a", true}, {0, "b", false},
		{30 * time.Second, "b", false}, // nothing from a for 30 s
		{15 * time.Second, "b", true},  // nothing for longer than that
		{0, "a", false}, {20 * time.Second, "b", true}, {20 * time.Second, "a", false},
		{time.Second, "b", true},
		{90 * time.Second, "a", true}, // b has failed
	}
	for i, s := range steps {
		for range int(s.wait / time.Second) {
			g.clock.Advance(time.Second)
			x.renew()
			y.renew()
		}
		h := x
		if s.replica == "b" {
			h = y
		}
		if got := send(t, h, "team", "c", s.replica); got != s.kept {
			t.Fatalf("step %d: sample of %s accepted = %v", i, s.replica, got)
		}
	}
	if v := testutil.ToFloat64(x.changes) + testutil.ToFloat64(y.changes); v < 2 {
		t.Errorf("changes metric = %v, want at least 2", v)
	}
}

// TestHACalls checks that the store is called at most once per cluster and update interval.
func TestHACalls(t *testing.T) {
	g := newHAGroup(1)
	h := g.has[0]
	const minutes = 10
	for s := range minutes * 60 {
		for i := range 20 {
			send(t, h, "team", "c", string(rune('a'+i%2)))
		}
		send(t, h, "team", "slow", "b")
		if s%20 == 0 {
			send(t, h, "team", "slow", "a")
		}
		h.renew()
		g.clock.Advance(time.Second)
	}
	if n, most := g.store.count(), 2*(minutes*4+1); n > most {
		t.Errorf("%d calls, want at most %d", n, most)
	}
}

// TestHAStoreDown checks that without the store the last election is used and fails over,
// and that the store's election is used again once the store is back.
func TestHAStoreDown(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		t.Run(fmt.Sprint("hangs=", hangs), func(t *testing.T) {
			g := newHAGroup(2)
			for _, h := range g.has {
				h.o.CallTimeout = 20 * time.Millisecond
			}
			x, y := g.has[0], g.has[1]
			want := func(what string, h *HA, cluster, replica string, kept bool) {
				t.Helper()
				if got := send(t, h, "team", cluster, replica); got != kept {
					t.Fatalf("%s: sample of %s accepted = %v", what, replica, got)
				}
			}
			eventually := func(what string, h *HA, cluster, replica string, kept bool) {
				t.Helper()
				for range 100 { // it may take some calls to detect a hanging store, or one that is back
					h.renew()
					if send(t, h, "team", cluster, replica) == kept {
						return
					}
				}
				t.Fatalf("%s: sample of %s never accepted = %v", what, replica, kept)
			}
			want("first", x, "c", "a", true)
			want("first", y, "c", "b", false)
			g.store.set(true, hangs)
			want("new cluster, first seen", x, "new", "a", true)
			want("new cluster", x, "new", "b", false)
			g.clock.Advance(20 * time.Second)
			want("held", x, "c", "a", true)
			g.clock.Advance(20 * time.Second)
			want("held", x, "c", "a", true)
			want("held", x, "c", "b", false)
			g.clock.Advance(31 * time.Second)
			want("failed over", x, "c", "b", true)
			want("failed over", x, "c", "a", false)
			if !x.down {
				t.Error("the store is not marked as down")
			}
			n := g.store.count()
			for range 50 {
				want("no waiting for a store that is down", x, "c", "b", true)
			}
			if got := g.store.count(); got != n {
				t.Errorf("%d calls of a store that is down", got-n)
			}

			g.store.Store = election.NewMemory(g.clock.Now) // emptied
			g.store.set(false, false)
			eventually("own election is written", x, "c", "b", true)
			g.clock.Advance(31 * time.Second)
			x.renew()
			want("the other distributor adopts it", y, "c", "b", true)

			g.store.set(true, hangs)
			g.clock.Advance(31 * time.Second)
			want("both fail over", x, "c", "a", true)
			want("both fail over", y, "c", "d", true)
			g.store.set(false, false)
			eventually("the first to claim is elected", x, "c", "a", true)
			for range 100 {
				x.renew()
				y.renew()
				g.clock.Advance(time.Second)
				send(t, x, "team", "c", "a")
				send(t, y, "team", "c", "d")
			}
			want("one is elected", x, "c", "a", true)
			want("one is elected", y, "c", "d", false)
		})
	}
}

// TestHAPatience checks that a request with many clusters waits for a hanging store only
// once, and a canceled one not at all.
func TestHAPatience(t *testing.T) {
	g := newHAGroup(1)
	h := g.has[0]
	g.store.set(true, true)
	batch := func() *series.Batch {
		b := &series.Batch{Tenant: "team"}
		for i := range 100 {
			ls := labels.FromStrings("__name__", "up", "cluster", fmt.Sprint(i), "__replica__", "a")
			b.Entries = append(b.Entries, series.Entry{Labels: ls, Samples: make([]series.Sample, 1)})
		}
		return b
	}
	lim := haLimits()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.Filter(ctx, batch(), &lim, &series.Outcome{}) // returns although calls may take a minute
	if n := g.store.count(); n > 1 {
		t.Errorf("%d calls of the store, want at most 1", n)
	}
	h = NewHA(HAOptions{Store: &g.store, Now: g.clock.Now, CallTimeout: time.Millisecond})
	b := batch()
	b.Tenant = "other"
	h.Filter(context.Background(), b, &lim, &series.Outcome{})
	if n := g.store.count(); n > 2 || len(b.Entries) != 100 {
		t.Errorf("%d calls of the store, want at most 2; %d series accepted, want 100", n, len(b.Entries))
	}
}

// TestHAIdle checks that idle clusters are deleted and no longer count for the limit.
func TestHAIdle(t *testing.T) {
	g := newHAGroup(0)
	reg := prometheus.NewRegistry()
	h := NewHA(HAOptions{Store: &g.store, Now: g.clock.Now, Registerer: reg})
	for i := range 100 {
		send(t, h, "team", fmt.Sprint(i), "a")
	}
	g.clock.Advance(59 * time.Minute)
	send(t, h, "team", "0", "a")
	g.clock.Advance(2 * time.Minute)
	h.renew()
	if n := h.count(); n != 1 {
		t.Errorf("%v clusters, want 1", n)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 4 {
		t.Errorf("%d metrics, want 4; error %v", n, err)
	}
	for i := range 99 {
		send(t, h, "team", fmt.Sprint("new-", i), "a")
	}
}

// accepted is an accepted sample: its replica, and the times around the call.
type accepted struct {
	replica  string
	from, to time.Time
}

// oneAtATime checks that the elected replica changes only after more than the failover
// time. It returns the number of changes.
func oneAtATime(t *testing.T, kept []accepted, failover time.Duration) (turns int) {
	t.Helper()
	var began time.Time // when the current replica was elected
	for i, k := range kept {
		if i == 0 || kept[i-1].replica == k.replica {
			if i == 0 {
				began = k.from
			}
			continue
		}
		turns++
		if i > 0 && turns > 1 && k.to.Sub(began) <= failover {
			t.Fatalf("sample of %s accepted %v after %s was elected", k.replica, k.to.Sub(began), kept[i-1].replica)
		}
		began = k.from
	}
	return turns
}

// TestHAInterleavings checks for random orders of samples, pauses and renewals that no two
// replicas are elected concurrently, and that samples are accepted again after a pause.
func TestHAInterleavings(t *testing.T) {
	const failover = 30 * time.Second
	turns := 0
	for seed := range int64(60) {
		rnd := rand.New(rand.NewSource(seed))
		g := newHAGroup(3)
		var kept []accepted
		lastAccepted := g.clock.Now()
		for range 2000 {
			g.clock.Advance(time.Duration(rnd.Int63n(int64(6 * time.Second))))
			if rnd.Intn(40) == 0 {
				g.clock.Advance(time.Duration(rnd.Int63n(int64(time.Minute))))
			}
			h := g.has[rnd.Intn(len(g.has))]
			if rnd.Intn(3) == 0 {
				h.renew()
				continue
			}
			replica := string(rune('a' + rnd.Intn(1+rnd.Intn(4))))
			now := g.clock.Now()
			if send(t, h, "team", "c", replica) {
				kept = append(kept, accepted{replica, now, now})
				lastAccepted = now
			}
			if now.Sub(lastAccepted) > 5*time.Minute {
				t.Fatalf("seed %d: no replica is accepted", seed)
			}
		}
		turns += oneAtATime(t, kept, failover)
	}
	if turns < 60 {
		t.Errorf("only %d failovers, want at least 60 for a meaningful test", turns)
	}
}

// TestHARedis runs two distributors with one Redis, in real time with short intervals,
// while Redis is killed and restarted.
func TestHARedis(t *testing.T) {
	srv := programs.Redis(t)
	const failover = 150 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var has []*HA
	for range 2 {
		client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		h := NewHA(HAOptions{Store: redis.New(client, electionSigner(t), redis.Options{}), Failover: failover, Update: failover / 3, CallTimeout: 30 * time.Second})
		has = append(has, h)
		running.Go(func() { h.Run(ctx) })
	}
	rnd := rand.New(rand.NewSource(1))
	round := func(samples int) []accepted {
		var kept []accepted
		for i := 0; i < samples; i++ {
			if rnd.Intn(25) == 0 {
				time.Sleep(time.Duration(rnd.Int63n(int64(2 * failover))))
			}
			time.Sleep(time.Duration(rnd.Int63n(int64(failover / 20))))
			replica := string(rune('a' + rnd.Intn(3)))
			from := time.Now()
			if send(t, has[rnd.Intn(2)], "team", "c", replica) {
				kept = append(kept, accepted{replica, from, time.Now()})
			}
		}
		return kept
	}
	if turns := oneAtATime(t, round(400), failover); turns == 0 {
		t.Error("no failover: the test is not meaningful")
	}

	// elected returns the replica whose samples a distributor accepts.
	elected := func(h *HA) string {
		for range 1000 {
			for _, r := range []string{"a", "b", "c"} {
				if send(t, h, "team", "c", r) {
					return r
				}
			}
			time.Sleep(time.Millisecond)
		}
		return "nobody"
	}
	srv.Kill()
	for i, h := range has {
		if r := elected(h); r == "nobody" {
			t.Errorf("without Redis, distributor %d accepts no replica", i)
		}
	}
	srv.Start()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		one, other := elected(has[0]), elected(has[1])
		has[0].mu.Lock()
		down := has[0].down
		has[0].mu.Unlock()
		if one == other && one != "nobody" && !down {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with Redis back, one distributor accepts %s, the other %s", one, other)
		}
	}
	oneAtATime(t, round(150), failover)
}
