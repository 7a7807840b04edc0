package redis

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// intruder writes to the ring's Redis.
type intruder struct {
	t      *testing.T
	client *goredis.Client
	m      *Membership // whose keys it knows
}

func newIntruder(t *testing.T, srv *programs.RedisServer, m *Membership) *intruder {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	t.Cleanup(func() { _ = client.Close() })
	return &intruder{t, client, m}
}

func (i *intruder) get(key int, id string) string {
	i.t.Helper()
	v, err := i.client.HGet(context.Background(), i.m.keys[key], id).Result()
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

// set writes a field of a hash and tells everybody.
func (i *intruder) set(key int, id, value string) {
	i.t.Helper()
	ctx := context.Background()
	_, err := i.client.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		p.HSet(ctx, i.m.keys[key], id, value)
		p.HIncrBy(ctx, i.m.keys[2], "version", 1)
		return p.Publish(ctx, i.m.channel, "x").Err()
	})
	if err != nil {
		i.t.Fatal(err)
	}
}

// seen is an instance as a process sees it.
func seen(m *Membership, id string) (ring.Instance, bool) {
	r, err := m.Ring(context.Background())
	if err != nil {
		return ring.Instance{}, false
	}
	for _, in := range slices.Concat(r.Instances(), r.Others()) {
		if in.ID == id {
			return in, true
		}
	}
	return ring.Instance{}, false
}

func ignoredFor(m *Membership, reason string) float64 {
	return testutil.ToFloat64(m.metrics.untrusted.WithLabelValues(reason))
}

func ignoredByAll(ms []*Membership) (n float64) {
	for _, m := range ms {
		n += ignoredFor(m, badSignature) + ignoredFor(m, badDecode)
	}
	return n
}

const evil = "evil.example:1"

// forgeries are entries of an instance with another address that nobody of the
// cluster has signed.
func forgeries(t *testing.T, good string) map[string]string {
	t.Helper()
	sig, text, _ := strings.Cut(good, "\n")
	changed := strings.Replace(text, "ingester-1:1", evil, 1)
	if changed == text {
		t.Fatal("the entry has no such address")
	}
	strange, err := signer(t, strings.Repeat("9", 40)).Sign(ofEntry, changed)
	if err != nil {
		t.Fatal(err)
	}
	otherPurpose, err := signer(t, secret).Sign(ofRemoval, changed)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"kept signature": sig + "\n" + changed, "no signature": "\n" + changed, "no line feed": changed, "stranger": strange + "\n" + changed,
		"signed for something else": otherPurpose + "\n" + changed, "junk": "junk", "empty": "", "as older versions wrote it": "0123456789abcdef" + changed,
	}
}

// TestForgedEntry: what nobody of the cluster has signed leads nobody to another
// address, whether its owner is alive or dead, for those who know the ring and for
// those who start.
func TestForgedEntry(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	good := in.get(0, "ingester-1")
	for _, alive := range []bool{true, false} {
		if !alive {
			_ = ms[0].Close()
			good = in.get(0, "ingester-1")
		}
		for name, forged := range forgeries(t, good) {
			for _, m := range ms { // the same value is counted once
				m.mu.Lock()
				m.noted = map[string]string{}
				m.mu.Unlock()
			}
			before := ignoredByAll(ms)
			in.set(0, "ingester-1", forged)
			kit.Until(t, name+" is written over", func() bool { return in.get(0, "ingester-1") != forged })
			fresh := open(t, srv.Addr, "", "", "")
			if err := fresh.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
			for who, m := range map[string]*Membership{"a member": ms[2], "who starts": fresh} {
				if got, ok := seen(m, "ingester-1"); ok && got.Addr != "ingester-1:1" && got.Addr != "" {
					t.Errorf("%s, owner alive %v: %s is led to %s", name, alive, who, got.Addr)
				}
			}
			if got, ok := seen(ms[2], "ingester-1"); !ok || got.Addr != "ingester-1:1" {
				t.Errorf("%s: a member knows %+v", name, got)
			}
			// Who is the first to see it writes it back; then the others need not see it.
			if ignoredByAll(ms) == before {
				t.Errorf("%s is not counted", name)
			}
			_ = fresh.Close()
		}
	}
	before := ignoredFor(ms[2], badSignature)
	in.set(0, "ingester-9", strings.ReplaceAll(good, "ingester-1", "ingester-9"))
	kit.Until(t, "an instance that there is not is counted", func() bool { return ignoredFor(ms[2], badSignature) > before })
	if _, ok := seen(ms[2], "ingester-9"); ok {
		t.Error("an instance that there is not is a member")
	}
	if !ms[2].Untrusted("ingester-9") || ms[2].Untrusted("ingester-1") || ms[2].Untrusted("nobody") {
		t.Error("an operator is not told which entries nobody trusts")
	}
	if _, err := ms[2].Forget(context.Background(), "ingester-9"); err != nil {
		t.Errorf("an operator cannot take it away: %v", err)
	}
}

// TestReplayedEntry: an entry that an instance once had leads nobody to its
// address of that time.
func TestReplayedEntry(t *testing.T) {
	srv := programs.Redis(t)
	ms, dirs := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	old, oldBeat := in.get(0, "ingester-1"), in.get(1, "ingester-1")
	_ = ms[0].Close()
	moved := openSigned(t, signer(t, secret), srv.Addr, ring.Instance{ID: "ingester-1", Zone: "a", Addr: "moved:1"}, dirs[0])
	if err := moved.Join(context.Background(), ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "others see that it moved", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Addr == "moved:1" })
	in.set(0, "ingester-1", old)
	in.set(1, "ingester-1", oldBeat)
	kit.Until(t, "it is written over", func() bool { return in.get(0, "ingester-1") != old })
	if got, _ := seen(ms[2], "ingester-1"); got.Addr != "moved:1" {
		t.Errorf("the others see it at %s", got.Addr)
	}

	// Now its process and all others that knew it are gone.
	for _, m := range []*Membership{moved, ms[1], ms[2]} {
		_ = m.Close()
	}
	time.Sleep(ms[0].o.Timeout) // until its heartbeats count no more
	in.set(0, "ingester-1", old)
	fresh := open(t, srv.Addr, "", "", "")
	if err := fresh.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, ok := seen(fresh, "ingester-1")
	if !ok || got.Addr != "" || !got.Unhealthy {
		t.Errorf("who starts sees %+v, %v: it must count, and nobody may connect to it", got, ok)
	}
	in.set(1, "ingester-1", oldBeat)
	for range 5 {
		fresh.mu.Lock()
		err := fresh.readRing(context.Background())
		fresh.mu.Unlock()
		if got, _ := seen(fresh, "ingester-1"); err != nil || got.Addr != "" {
			t.Fatalf("an old heartbeat makes it used at %s, %v", got.Addr, err)
		}
	}
}

// TestForgedHeartbeat: only the process that registered an entry makes it alive.
func TestForgedHeartbeat(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	_ = ms[0].Close()
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dead := ms[0].mine
	kit.Until(t, "it is unhealthy", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Unhealthy })
	now := time.Now().UnixMilli()
	for name, text := range map[string]string{
		"another key":          newHeartbeat(other, "ingester-1", now, dead.hash),
		"another's own":        in.get(1, "ingester-2"),
		"of the future":        newHeartbeat(ms[0].key, "ingester-1", now+time.Hour.Milliseconds(), dead.hash),
		"of another entry":     newHeartbeat(ms[0].key, "ingester-1", now, hashOf("another")),
		"of an older version":  fmt.Sprint(now),
		"with another time":    strings.Replace(newHeartbeat(ms[0].key, "ingester-1", now-1, dead.hash), fmt.Sprint(now-1), fmt.Sprint(now), 1),
		"with leading zeros":   "0" + newHeartbeat(ms[0].key, "ingester-1", now, dead.hash),
		"junk":                 "x y z",
		"of another instance":  newHeartbeat(ms[0].key, "ingester-2", now, dead.hash),
		"with a cut signature": fmt.Sprintf("%d %s %s", now, dead.hash, base64.RawStdEncoding.EncodeToString([]byte("short"))),
	} {
		before := ignoredFor(ms[2], badHeartbeat)
		in.set(1, "ingester-1", text)
		kit.Until(t, name+" is counted", func() bool { return ignoredFor(ms[2], badHeartbeat) > before })
		if got, _ := seen(ms[2], "ingester-1"); !got.Unhealthy {
			t.Errorf("%s makes it healthy", name)
		}
	}
	in.set(1, "ingester-1", newHeartbeat(ms[0].key, "ingester-1", time.Now().UnixMilli(), dead.hash))
	kit.Until(t, "its own makes it healthy: the test shows something", func() bool { got, _ := seen(ms[2], "ingester-1"); return !got.Unhealthy })
}

// TestForgedRemoval: only a member takes another out of the ring, and only for the
// entries up to then.
func TestForgedRemoval(t *testing.T) {
	srv := programs.Redis(t)
	ctx := context.Background()
	ms, dirs := members(t, srv.Addr, 4)
	kit.Until(t, "all are members", func() bool { return sees(ms[3], 4) })
	in := newIntruder(t, srv, ms[3])
	_ = ms[0].Close() // nobody registers it again
	forge := func(by Signer, id string, version int64) string {
		r := removal{ID: id, Version: version, At: time.Now().UnixMilli()}
		if err := r.seal(by); err != nil {
			t.Fatal(err)
		}
		return r.value
	}
	far := time.Now().Add(time.Hour).UnixMilli()
	for name, value := range map[string]string{
		"a stranger's":        forge(signer(t, strings.Repeat("9", 40)), "ingester-1", far),
		"another instance's":  forge(signer(t, secret), "ingester-2", far),
		"without a signature": "\n" + strings.SplitN(forge(signer(t, secret), "ingester-1", far), "\n", 2)[1],
		"of an older version": fmt.Sprint(far),
		"signed as an entry":  strings.Replace(in.get(0, "ingester-1"), "state", "x", 1),
		"of an entry before":  forge(signer(t, secret), "ingester-1", ms[0].mine.Version-1),
	} {
		in.set(3, "ingester-1", value)
		if err := in.client.HDel(ctx, in.m.keys[0], "ingester-1").Err(); err != nil {
			t.Fatal(err)
		}
		in.set(1, "nobody", "")
		kit.Until(t, name+": it is written back", func() bool { return in.client.HExists(ctx, in.m.keys[0], "ingester-1").Val() })
		if !sees(ms[3], 4) {
			t.Errorf("%s removes a member", name)
		}
	}
	if _, err := ms[3].Forget(ctx, "ingester-1"); err != nil {
		t.Fatal(err)
	}
	removed := in.get(3, "ingester-1")
	kit.Until(t, "it is gone", func() bool { return sees(ms[1], 3) && sees(ms[2], 3) })
	again := open(t, srv.Addr, "ingester-1", "a", dirs[0])
	if err := again.Join(ctx, ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "it is back", func() bool { return sees(ms[3], 4) && sees(ms[2], 4) })
	in.set(3, "ingester-1", removed)
	fresh := open(t, srv.Addr, "", "", "")
	kit.Until(t, "an earlier removal does not end it", func() bool { return sees(fresh, 4) })
}

// TestJunk: large and many fields keep nobody from seeing the ring.
func TestJunk(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	for key := range 4 {
		if key == 2 {
			continue
		}
		for i := range 50 { // of 1000 bytes to a megabyte
			if err := in.client.HSet(context.Background(), in.m.keys[key], fmt.Sprintf("a-junk-%d", i), strings.Repeat("x", 1000<<(i%11))).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	in.set(0, "junk", "junk")
	kit.Until(t, "it is counted", func() bool { return ignoredFor(ms[2], badDecode) > 0 })
	// Heartbeats that were not read for as long as they count would make all silent.
	time.Sleep(ms[2].o.Timeout)
	for _, id := range []string{"ingester-1", "ingester-2", "ingester-3"} {
		if got, ok := seen(ms[2], id); !ok || got.Addr == "" {
			t.Errorf("%s is %+v, %v", id, got, ok)
		}
	}
}

// TestVersionAhead: a version of the future is not used, and does not keep later
// ones out.
func TestVersionAhead(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	e := ms[0].mine
	e.Addr, e.Version = evil, time.Now().Add(maxAhead+time.Minute).UnixMilli()
	if err := e.seal(signer(t, secret)); err != nil {
		t.Fatal(err)
	}
	_ = ms[0].Close()
	in.set(0, "ingester-1", e.value)
	in.set(1, "ingester-1", newHeartbeat(ms[0].key, "ingester-1", time.Now().UnixMilli(), e.hash))
	kit.Until(t, "it is counted and written over", func() bool {
		return ignoredFor(ms[1], badVersion)+ignoredFor(ms[2], badVersion) > 0 && in.get(0, "ingester-1") != e.value
	})
	if got, _ := seen(ms[2], "ingester-1"); got.Addr != "ingester-1:1" {
		t.Errorf("it is used at %s", got.Addr)
	}
}

// TestRotation: the ring stays whole at each step of an exchange of secrets, with a
// member that is down meanwhile.
func TestRotation(t *testing.T) {
	srv := programs.Redis(t)
	one, two := secret, strings.Repeat("2", 40)
	var ms []*Membership
	var dirs []string
	join := func(i int, secrets string) *Membership {
		m := openSigned(t, signer(t, secrets), srv.Addr, ring.Instance{ID: fmt.Sprintf("ingester-%d", i+1), Zone: string(rune('a' + i)), Addr: fmt.Sprintf("ingester-%d:1", i+1)}, dirs[i])
		if err := m.Join(context.Background(), ring.Active); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for i := range 4 {
		dirs = append(dirs, t.TempDir())
		ms = append(ms, join(i, one))
	}
	kit.Until(t, "all are members", func() bool { return sees(ms[0], 4) })
	_ = ms[3].Close() // down from here on
	for _, secrets := range []string{one + " " + two, two + " " + one, two} {
		for i := range 3 {
			_ = ms[i].Close()
			ms[i] = join(i, secrets)
			for j := range 3 {
				kit.Until(t, fmt.Sprintf("step %q, %d restarted: %d sees all", secrets, i, j), func() bool {
					down, _ := seen(ms[j], "ingester-4")
					for k := range 3 {
						if got, ok := seen(ms[j], fmt.Sprintf("ingester-%d", k+1)); !ok || got.Addr == "" || got.Unhealthy {
							return false
						}
					}
					return sees(ms[j], 4) && down.Unhealthy
				})
			}
		}
		if strings.HasPrefix(secrets, two) {
			in := newIntruder(t, srv, ms[0])
			kit.Until(t, "the entry of the one that is down is signed anew", func() bool {
				e, err := decodeEntry(signer(t, two), "ingester-4", in.get(0, "ingester-4"))
				return err == nil && !e.aged
			})
		}
	}
	for j := range 3 {
		for _, reason := range []string{badSignature, badDecode, badVersion, badRemoval} {
			if n := ignoredFor(ms[j], reason); n > 0 {
				t.Errorf("%v values are ignored for their %s", n, reason)
			}
		}
	}
}

// expiring is a signer for which the certificates of some hosts have expired.
type expiring struct {
	Signer
	host string
}

func (e expiring) Verify(signature, host, purpose string, parts ...string) (bool, error) {
	if aged, err := e.Signer.Verify(signature, host, purpose, parts...); err != nil || host != e.host {
		return aged, err
	}
	return false, cluster.ErrExpired
}

// TestExpiredCertificate: who starts does not overlook a member whose certificate has
// expired, and does not connect to it; and its successor without a disk finds out that
// there was one.
func TestExpiredCertificate(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	for _, alive := range []bool{true, false} {
		if !alive {
			_ = ms[0].Close()
		}
		starts := openSigned(t, expiring{signer(t, secret), "ingester-1"}, srv.Addr, ring.Instance{}, "")
		kit.Until(t, "all are seen, and heartbeats", func() bool {
			starts.mu.Lock()
			defer starts.mu.Unlock()
			return starts.current.Load() != nil && (!alive || starts.members["ingester-1"].beat > ms[0].mine.Version)
		})
		got, ok := seen(starts, "ingester-1")
		if !ok || got.Addr != "" || !got.Unhealthy {
			t.Errorf("alive %v: %v, at %q, unhealthy %v", alive, ok, got.Addr, got.Unhealthy)
		}
		if ignoredFor(starts, badSignature) != 1 {
			t.Error("it is not counted")
		}
	}
	successor := openSigned(t, expiring{signer(t, secret), "ingester-1"}, srv.Addr, ring.Instance{ID: "ingester-1", Addr: "ingester-1b:1", Zone: "a"}, t.TempDir())
	if err := successor.Join(context.Background(), ring.Joining); err != nil {
		t.Fatal(err)
	}
	if fresh, replaced := successor.Fresh(); !fresh || !replaced || successor.LostZone() != "a" {
		t.Errorf("fresh %v, replaced %v, zone %q", fresh, replaced, successor.LostZone())
	}
	kit.Until(t, "others use it", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Addr == "ingester-1b:1" })
}

// TestRedisTimeSetBack: after Redis' time was an hour ahead and is right again, a
// member that registers is used where its last entry is, which is ahead, too; and one
// that falls silent is not taken for alive for an hour.
func TestRedisTimeSetBack(t *testing.T) {
	m := still(t, programs.Redis(t).Addr, secret, "")
	m.mu.Lock()
	defer m.mu.Unlock()
	right := time.Now().UnixMilli()
	ahead := right + time.Hour.Milliseconds()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	// register has the member's new entry, and a heartbeat of it, in Redis at a time.
	register := func(addr string, version, at int64) {
		e := entry{ID: "x", Addr: addr, State: string(ring.Active), Version: version, Key: base64.RawStdEncoding.EncodeToString(public)}
		if err := e.seal(signer(t, secret)); err != nil {
			t.Fatal(err)
		}
		m.readAt = at
		m.beats = map[string]string{"x": newHeartbeat(key, "x", at, e.hash)}
		if err := m.adopt(t.Context(), map[string]string{"x": e.value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	register("x:1", ahead, ahead)
	register("x:2", ahead+1, right)
	if k := m.members["x"]; !k.used || k.Addr != "x:2" {
		t.Errorf("used %v, at %s", k.used, k.Addr)
	}
	register("x:2", ahead+1, ahead)
	m.readAt = right
	m.choose()
	m.readAt += 2 * m.o.Timeout.Milliseconds()
	m.choose()
	if m.recent(m.members["x"].beat) {
		t.Error("its heartbeat counts, though it is silent")
	}
}
