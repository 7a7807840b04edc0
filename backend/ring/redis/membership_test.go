package redis

import (
	"context"
	"fmt"
	"math/rand"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

const beatEvery = 50 * time.Millisecond

var secret = strings.Repeat("1", cluster.MinSecretBytes)

// signer returns a member of the cluster with the secrets.
func signer(t testing.TB, secrets string) *cluster.Member {
	t.Helper()
	list, err := cluster.ParseSecrets(secrets)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: list})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// open opens a membership; without an id it only watches, and without a dir it has no tokens.
func open(t *testing.T, addr, id, zone, dir string) *Membership {
	t.Helper()
	return openSigned(t, signer(t, secret), addr, ring.Instance{ID: id, Zone: zone, Addr: id + ":1"}, dir)
}

func openSigned(t *testing.T, s Signer, addr string, self ring.Instance, dir string) *Membership {
	t.Helper()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Client: client, Signer: s, Self: self, Heartbeat: beatEvery, Timeout: time.Second}
	if dir != "" {
		o.File = filepath.Join(dir, "ring.json")
	}
	m, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(); _ = client.Close() })
	return m
}

func members(t *testing.T, addr string, n int) ([]*Membership, []string) {
	t.Helper()
	var out []*Membership
	var dirs []string
	for i := range n {
		dirs = append(dirs, t.TempDir())
		m := open(t, addr, fmt.Sprintf("ingester-%d", i+1), string(rune('a'+i%3)), dirs[i])
		if err := m.Join(context.Background(), ring.Active); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out, dirs
}

// view returns a text that describes a ring for comparison: IDs, states and placement.
func view(m *Membership) string {
	r, err := m.Ring(context.Background())
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, in := range r.Instances() {
		fmt.Fprintf(&b, "%s %s %s %d; ", in.ID, in.Zone, in.State, len(in.Tokens))
	}
	rnd := rand.New(rand.NewSource(1))
	for range 200 {
		found, err := r.Replicas(rnd.Uint32(), 3, nil)
		for _, in := range found {
			b.WriteString(in.ID[len(in.ID)-1:])
		}
		if err != nil {
			b.WriteString("-")
		}
	}
	return b.String()
}

func agree(t *testing.T, what string, ms ...*Membership) string {
	t.Helper()
	kit.Until(t, what, func() bool {
		for _, m := range ms[1:] {
			if view(m) != view(ms[0]) {
				return false
			}
		}
		return true
	})
	return view(ms[0])
}

func sees(m *Membership, n int) bool {
	r, err := m.Ring(context.Background())
	return err == nil && len(r.Instances()) == n
}

func TestJoin(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 6)
	watcher := open(t, srv.Addr, "", "", "")
	if err := watcher.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "all are members", func() bool { return sees(watcher, 6) })
	agree(t, "all see the same ring", append(ms, watcher)...)
	r, _ := watcher.Ring(context.Background())
	for i, share := range r.Shares(3) {
		if share < 0.49 || share > 0.51 {
			t.Errorf("share of %s = %.3f, want about 0.5", r.Instances()[i].ID, share)
		}
	}
	querier := open(t, srv.Addr, "querier-1", "", "")
	if err := querier.Join(context.Background(), ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "a member without tokens is listed", func() bool {
		r, _ := watcher.Ring(context.Background())
		return len(r.Others()) == 1 && r.Others()[0].ID == "querier-1"
	})
}

// TestManyJoinAtOnce checks that instances that join concurrently do not place tokens by an
// outdated ring.
func TestManyJoinAtOnce(t *testing.T) {
	srv := programs.Redis(t)
	const n = 12
	errs := make(chan error, n)
	var ms []*Membership
	for i := range n {
		ms = append(ms, open(t, srv.Addr, fmt.Sprintf("ingester-%d", i), string(rune('a'+i%3)), t.TempDir()))
	}
	for _, m := range ms {
		go func() { errs <- m.Join(context.Background(), ring.Active) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	kit.Until(t, "all are members", func() bool { return sees(ms[0], n) })
	r, _ := ms[0].Ring(context.Background())
	for i, share := range r.Shares(3) {
		if share < 0.23 || share > 0.27 {
			t.Errorf("share of %s = %.3f, want about 0.25", r.Instances()[i].ID, share)
		}
	}
}

// TestRedisLost checks that the ring changes neither while Redis is down nor when it is back
// and empty.
func TestRedisLost(t *testing.T) {
	srv := programs.Redis(t)
	ms, dirs := members(t, srv.Addr, 6)
	watcher := open(t, srv.Addr, "", "", "")
	kit.Until(t, "all are members", func() bool { return sees(watcher, 6) })
	all := append(slices.Clone(ms), watcher)
	before := agree(t, "all see the same ring", all...)
	steady := func(what string, from []*Membership) {
		t.Helper()
		for range 60 {
			for _, m := range from {
				if got := view(m); got != before {
					t.Fatalf("%s, the ring changed\nfrom %s\nto   %s", what, before, got)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	srv.Kill()
	steady("with Redis lost", all)

	// One ingester restarts and one dies in the meantime. The restarted one has its
	// old tokens.
	_ = ms[0].Close()
	_ = ms[1].Close()
	ms[0] = open(t, srv.Addr, "ingester-1", "a", dirs[0])
	if err := ms[0].Join(context.Background(), ring.Active); err != nil {
		t.Fatal(err)
	}
	all[0] = ms[0]
	others := []*Membership{ms[2], ms[3], ms[4], ms[5], watcher}
	steady("with Redis lost and one restarted", others)

	srv.Start()
	steady("with Redis back and empty", others)
	kit.Until(t, "all are in Redis again, the dead one too", func() bool { return sees(ms[0], 6) })
	fresh := open(t, srv.Addr, "", "", "")
	if err := fresh.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := view(fresh); got != before {
		t.Errorf("a new process reads the ring\n%s, want\n%s", got, before)
	}
	kit.Until(t, "the dead one is unhealthy", func() bool {
		r, _ := fresh.Ring(context.Background())
		n := 0
		for _, in := range r.Instances() {
			if in.Unhealthy && in.ID == "ingester-2" {
				n++
			}
		}
		return n == 1
	})
}

// TestFailover checks that missing members are written back when Redis returns with an older
// state, as after a failover to an asynchronous replica.
func TestFailover(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[0], 3) })
	before := agree(t, "all see the same ring", ms...)
	client, _ := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}}, "")
	defer client.Close()
	ctx := context.Background()
	// The older state lacks ingester-3, which joined last and is down.
	_ = ms[2].Close()
	if err := client.HDel(ctx, ms[0].keys[0], "ingester-3").Err(); err != nil {
		t.Fatal(err)
	}
	client.HDel(ctx, ms[0].keys[1], "ingester-3")
	client.HIncrBy(ctx, ms[0].keys[2], "version", -1)
	kit.Until(t, "the missing member is back", func() bool { return client.HExists(ctx, ms[0].keys[0], "ingester-3").Val() })
	if got := view(ms[0]); got != before {
		t.Errorf("the ring changed to %s", got)
	}
}

// TestFreeze checks that no instance is unhealthy after most heartbeats stopped, not even one
// that was unhealthy before.
func TestFreeze(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 6)
	watcher := open(t, srv.Addr, "", "", "")
	kit.Until(t, "all are members", func() bool { return sees(watcher, 6) })
	unhealthy := func() int {
		r, _ := watcher.Ring(context.Background())
		n := 0
		for _, in := range r.Instances() {
			if in.Unhealthy {
				n++
			}
		}
		return n
	}
	_ = ms[0].Close()
	kit.Until(t, "one is unhealthy", func() bool { return unhealthy() == 1 })
	for _, m := range ms[1:] {
		_ = m.Close()
	}
	kit.Until(t, "no heartbeats, and none is unhealthy", func() bool {
		r, _ := watcher.Ring(context.Background())
		for _, in := range r.Instances() {
			if in.SinceHeartbeat < time.Second {
				return false
			}
		}
		return unhealthy() == 0
	})
}

func TestLeaveAndForget(t *testing.T) {
	srv := programs.Redis(t)
	ms, dirs := members(t, srv.Addr, 4)
	ctx := context.Background()
	kit.Until(t, "all are members", func() bool { return sees(ms[3], 4) })
	if err := ms[0].SetState(ctx, ring.Leaving); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the others see it leave", func() bool { return strings.Contains(view(ms[3]), "ingester-1 a LEAVING") })
	if err := ms[0].Leave(ctx); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the instance that left is gone", func() bool { return sees(ms[3], 3) })
	if _, err := ms[3].Forget(ctx, "ingester-1"); err == nil {
		t.Error("Forget of an instance that is not a member succeeded")
	}
	_ = ms[1].Close()
	in, err := ms[3].Forget(ctx, "ingester-2")
	if err != nil || in.Zone != "b" {
		t.Errorf("forget: %+v, %v", in, err)
	}
	kit.Until(t, "the forgotten instance is gone", func() bool { return sees(ms[2], 2) })
	time.Sleep(4 * beatEvery) // it must not be written back
	if !sees(ms[2], 2) {
		t.Errorf("a forgotten instance is back: %s", view(ms[2]))
	}
	// An instance that was forgotten by mistake returns with its tokens.
	before, _ := ms[3].Ring(ctx)
	again := open(t, srv.Addr, "ingester-2", "b", dirs[1])
	if err := again.Join(ctx, ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the forgotten instance is back", func() bool { return sees(ms[3], 3) })
	if len(before.Instances()) != 2 || !slices.Equal(again.Self().Tokens, ms[1].Self().Tokens) {
		t.Errorf("%d instances while it was away, want 2; with its old tokens: %v", len(before.Instances()),
			slices.Equal(again.Self().Tokens, ms[1].Self().Tokens))
	}
}

// TestLostDisk checks that an instance that returns without its directory gets its old tokens
// and a new incarnation.
func TestLostDisk(t *testing.T) {
	srv := programs.Redis(t)
	ms, dirs := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	before := agree(t, "all see the same ring", ms...)
	old := ms[0].Self()
	_ = ms[0].Close()
	again := open(t, srv.Addr, "ingester-1", "a", t.TempDir())
	if err := again.Join(context.Background(), ring.Active); err != nil {
		t.Fatal(err)
	}
	if got := again.Self(); got.Incarnation == old.Incarnation || !slices.Equal(got.Tokens, old.Tokens) {
		t.Errorf("incarnation %s, before %s; with its old tokens: %v", got.Incarnation, old.Incarnation, slices.Equal(got.Tokens, old.Tokens))
	}
	kit.Until(t, "the others see it", func() bool { return view(ms[2]) == before && view(again) == before })
	if _, err := Open(Options{Client: ms[1].o.Client, Signer: ms[1].o.Signer, Self: ring.Instance{ID: "other"}, File: filepath.Join(dirs[1], "ring.json")}); err == nil || !strings.Contains(err.Error(), "belongs to instance") {
		t.Errorf("a directory of another instance: %v", err)
	}
}

// TestACL checks that the keys and commands in the documentation are sufficient.
func TestACL(t *testing.T) {
	srv := programs.Redis(t, "--user", "default", "off", "--user", "pallium", "on", ">secret", "~{pallium:ring}:*", "&{pallium:ring}:changes", "-@all",
		"+evalsha", "+eval", "+time", "+hget", "+hmget", "+hgetall", "+hset", "+hdel", "+hincrby", "+publish", "+subscribe", "+ping", "+hello", "+client", "+auth")
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}, Username: "pallium"}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	m, err := Open(Options{Client: client, Signer: signer(t, secret), Self: ring.Instance{ID: "i"}, File: filepath.Join(t.TempDir(), "ring.json"), Heartbeat: beatEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Join(context.Background(), ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the instance is a member", func() bool { return sees(m, 1) })
	if err := m.Leave(context.Background()); err != nil {
		t.Error(err)
	}
	wrong, _ := redisconn.Open(redisconn.Config{Addresses: []string{srv.Addr}, Username: "pallium"}, "wrong")
	defer wrong.Close()
	if err := wrong.Ping(context.Background()).Err(); err == nil {
		t.Error("a wrong password is accepted")
	}
}

func TestTokens(t *testing.T) {
	for _, tokens := range [][]uint32{nil, {0}, {0, 1}, {1 << 31, 1<<32 - 1}, ring.PlaceTokens("", nil)} {
		got, err := decodeTokens(encodeTokens(tokens))
		if err != nil || !slices.Equal(got, tokens) {
			t.Errorf("tokens %v were decoded as %v, error %v", tokens, got, err)
		}
	}
	for _, bad := range []string{"!", "AQA", "/////////////w", "gICAgIA"} {
		if got, err := decodeTokens(bad); err == nil {
			t.Errorf("decodeTokens(%q) = %v, want an error", bad, got)
		}
	}
}

func FuzzEntry(f *testing.F) {
	by := signer(f, secret)
	e := entryOf(ring.Instance{ID: "a", State: ring.Active, Tokens: []uint32{1, 5}})
	e.Key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if err := e.seal(by); err != nil {
		f.Fatal(err)
	}
	f.Add("a", e.value)
	f.Add("a", "m\n{}")
	f.Fuzz(func(t *testing.T, id, value string) {
		if _, err := decodeEntry(by, id, value); err == nil && value != e.value {
			t.Errorf("decodeEntry accepts %q as an entry of %q", value, id)
		}
		// With any signature accepted.
		got, err := decodeEntry(anySignature{}, id, value)
		if err != nil {
			return
		}
		if in := got.instance(); in.ID != id || !slices.IsSorted(in.Tokens) {
			t.Errorf("instance %+v, want the ID %q and sorted tokens", in, id)
		}
		if _, ok := got.beatAt(value, 0); ok {
			t.Errorf("beatAt accepts %q as a heartbeat", value)
		}
	})
}

// anySignature is a Signer that accepts every signature.
type anySignature struct{}

func (anySignature) Sign(string, ...string) (string, error)                 { return "", nil }
func (anySignature) Verify(string, string, string, ...string) (bool, error) { return false, nil }
