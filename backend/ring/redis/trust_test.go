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

// intruder writes to the ring's Redis without a secret of the cluster.
type intruder struct {
	t      *testing.T
	client *goredis.Client
	m      *Membership // for the names of the keys
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

// set writes a field of a hash and notifies all watchers.
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

// seen returns an instance in the ring of a process.
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

// forgeries returns entries of an instance with another address, without a valid signature
// of a member of the cluster.
func forgeries(t *testing.T, good string) map[string]string {
	t.Helper()
	sig, text, _ := strings.Cut(good, "\n")
	changed := strings.Replace(text, "ingester-1:1", evil, 1)
	if changed == text {
		t.Fatal("the entry does not contain the address")
	}
	stranger, err := signer(t, strings.Repeat("9", 40)).Sign(ofEntry, changed)
	if err != nil {
		t.Fatal(err)
	}
	otherPurpose, err := signer(t, secret).Sign(ofRemoval, changed)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"signature of another text": sig + "\n" + changed, "no signature": "\n" + changed, "no line feed": changed, "signed with another secret": stranger + "\n" + changed,
		"signed for another purpose": otherPurpose + "\n" + changed, "junk": "junk", "empty": "", "format of older versions": "0123456789abcdef" + changed,
	}
}

// TestForgedEntry checks that entries not signed by a member never lead to another address,
// whether the instance is alive or dead, and for existing and for new processes.
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
			for _, m := range ms { // because each value is counted only once
				m.mu.Lock()
				m.noted = map[string]string{}
				m.mu.Unlock()
			}
			before := ignoredByAll(ms)
			in.set(0, "ingester-1", forged)
			kit.Until(t, name+" is replaced", func() bool { return in.get(0, "ingester-1") != forged })
			fresh := open(t, srv.Addr, "", "", "")
			if err := fresh.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
			for who, m := range map[string]*Membership{"a member": ms[2], "a new process": fresh} {
				if got, ok := seen(m, "ingester-1"); ok && got.Addr != "ingester-1:1" && got.Addr != "" {
					t.Errorf("%s, alive %v: %s uses the address %s", name, alive, who, got.Addr)
				}
			}
			if got, ok := seen(ms[2], "ingester-1"); !ok || got.Addr != "ingester-1:1" {
				t.Errorf("%s: a member has the instance %+v", name, got)
			}
			// The first process that reads the entry replaces it, so the others may not see it.
			if ignoredByAll(ms) == before {
				t.Errorf("%s is not counted as ignored", name)
			}
			_ = fresh.Close()
		}
	}
	before := ignoredFor(ms[2], badSignature)
	in.set(0, "ingester-9", strings.ReplaceAll(good, "ingester-1", "ingester-9"))
	kit.Until(t, "an entry of an unknown instance is counted", func() bool { return ignoredFor(ms[2], badSignature) > before })
	if _, ok := seen(ms[2], "ingester-9"); ok {
		t.Error("an unknown instance with an untrusted entry is a member")
	}
	if !ms[2].Untrusted("ingester-9") || ms[2].Untrusted("ingester-1") || ms[2].Untrusted("nobody") {
		t.Error("Untrusted is wrong for an untrusted, a trusted or an unknown instance")
	}
	if got := ms[2].UntrustedIDs(); !slices.Equal(got, []string{"ingester-9"}) {
		t.Errorf("UntrustedIDs = %q, want only ingester-9", got)
	}
	if _, err := ms[2].Forget(context.Background(), "ingester-9"); err != nil {
		t.Errorf("Forget of an untrusted entry = %v", err)
	}
}

// TestReplayedEntry checks that an earlier entry of an instance does not lead to its earlier
// address.
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
	kit.Until(t, "others have the new address", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Addr == "moved:1" })
	in.set(0, "ingester-1", old)
	in.set(1, "ingester-1", oldBeat)
	kit.Until(t, "the old entry is replaced", func() bool { return in.get(0, "ingester-1") != old })
	if got, _ := seen(ms[2], "ingester-1"); got.Addr != "moved:1" {
		t.Errorf("address after a replay = %s, want moved:1", got.Addr)
	}

	// Now stop the instance and all processes that have its current entry.
	for _, m := range []*Membership{moved, ms[1], ms[2]} {
		_ = m.Close()
	}
	time.Sleep(ms[0].o.Timeout) // until its heartbeats are too old
	in.set(0, "ingester-1", old)
	fresh := open(t, srv.Addr, "", "", "")
	if err := fresh.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, ok := seen(fresh, "ingester-1")
	if !ok || got.Addr != "" || !got.Unhealthy {
		t.Errorf("a new process has %+v, %v: want an unhealthy member without an address", got, ok)
	}
	in.set(1, "ingester-1", oldBeat)
	for range 5 {
		fresh.mu.Lock()
		err := fresh.readRing(context.Background())
		fresh.mu.Unlock()
		if got, _ := seen(fresh, "ingester-1"); err != nil || got.Addr != "" {
			t.Fatalf("an old heartbeat makes the address %s used, %v", got.Addr, err)
		}
	}
}

// TestForgedHeartbeat checks that only heartbeats by the process that registered an entry
// are accepted.
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
	kit.Until(t, "the instance is unhealthy", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Unhealthy })
	now := time.Now().UnixMilli()
	for name, text := range map[string]string{
		"another key":                   newHeartbeat(other, "ingester-1", now, dead.hash),
		"heartbeat of another instance": in.get(1, "ingester-2"),
		"in the future":                 newHeartbeat(ms[0].key, "ingester-1", now+time.Hour.Milliseconds(), dead.hash),
		"of another entry":              newHeartbeat(ms[0].key, "ingester-1", now, hashOf("another")),
		"of an older version":           fmt.Sprint(now),
		"with another time":             strings.Replace(newHeartbeat(ms[0].key, "ingester-1", now-1, dead.hash), fmt.Sprint(now-1), fmt.Sprint(now), 1),
		"with leading zeros":            "0" + newHeartbeat(ms[0].key, "ingester-1", now, dead.hash),
		"junk":                          "x y z",
		"signed for another instance":   newHeartbeat(ms[0].key, "ingester-2", now, dead.hash),
		"with a cut signature":          fmt.Sprintf("%d %s %s", now, dead.hash, base64.RawStdEncoding.EncodeToString([]byte("short"))),
	} {
		before := ignoredFor(ms[2], badHeartbeat)
		in.set(1, "ingester-1", text)
		kit.Until(t, name+" is counted", func() bool { return ignoredFor(ms[2], badHeartbeat) > before })
		if got, _ := seen(ms[2], "ingester-1"); !got.Unhealthy {
			t.Errorf("%s makes the instance healthy", name)
		}
	}
	in.set(1, "ingester-1", newHeartbeat(ms[0].key, "ingester-1", time.Now().UnixMilli(), dead.hash))
	kit.Until(t, "a valid heartbeat makes the instance healthy", func() bool { got, _ := seen(ms[2], "ingester-1"); return !got.Unhealthy })
}

// TestForgedRemoval checks that only a removal signed by a member removes an instance, and only
// entries up to the version in it.
func TestForgedRemoval(t *testing.T) {
	srv := programs.Redis(t)
	ctx := context.Background()
	ms, dirs := members(t, srv.Addr, 4)
	kit.Until(t, "all are members", func() bool { return sees(ms[3], 4) })
	in := newIntruder(t, srv, ms[3])
	_ = ms[0].Close() // so that it does not register again
	forge := func(by Signer, id string, version int64) string {
		r := removal{ID: id, Version: version, At: time.Now().UnixMilli()}
		if err := r.seal(by); err != nil {
			t.Fatal(err)
		}
		return r.value
	}
	far := time.Now().Add(time.Hour).UnixMilli()
	for name, value := range map[string]string{
		"signed with another secret": forge(signer(t, strings.Repeat("9", 40)), "ingester-1", far),
		"of another instance":        forge(signer(t, secret), "ingester-2", far),
		"without a signature":        "\n" + strings.SplitN(forge(signer(t, secret), "ingester-1", far), "\n", 2)[1],
		"of an older version":        fmt.Sprint(far),
		"signed as an entry":         strings.Replace(in.get(0, "ingester-1"), "state", "x", 1),
		"of an earlier entry":        forge(signer(t, secret), "ingester-1", ms[0].mine.Version-1),
	} {
		in.set(3, "ingester-1", value)
		if err := in.client.HDel(ctx, in.m.keys[0], "ingester-1").Err(); err != nil {
			t.Fatal(err)
		}
		in.set(1, "nobody", "")
		kit.Until(t, name+": the entry is written back", func() bool { return in.client.HExists(ctx, in.m.keys[0], "ingester-1").Val() })
		if !sees(ms[3], 4) {
			t.Errorf("a removal %q removed a member", name)
		}
	}
	if _, err := ms[3].Forget(ctx, "ingester-1"); err != nil {
		t.Fatal(err)
	}
	removed := in.get(3, "ingester-1")
	kit.Until(t, "the instance is gone", func() bool { return sees(ms[1], 3) && sees(ms[2], 3) })
	again := open(t, srv.Addr, "ingester-1", "a", dirs[0])
	if err := again.Join(ctx, ring.Active); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the instance is back", func() bool { return sees(ms[3], 4) && sees(ms[2], 4) })
	in.set(3, "ingester-1", removed)
	fresh := open(t, srv.Addr, "", "", "")
	kit.Until(t, "an earlier removal does not remove the new entry", func() bool { return sees(fresh, 4) })
}

// TestJunk checks that many and large fields do not prevent reading the ring.
func TestJunk(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	for key := range 4 {
		if key == 2 {
			continue
		}
		for i := range 50 { // of 1,000 bytes to a megabyte
			if err := in.client.HSet(context.Background(), in.m.keys[key], fmt.Sprintf("a-junk-%d", i), strings.Repeat("x", 1000<<(i%11))).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	in.set(0, "junk", "junk")
	kit.Until(t, "the junk is counted as ignored", func() bool { return ignoredFor(ms[2], badDecode) > 0 })
	// If heartbeats were not read, all instances would be unhealthy after the timeout.
	time.Sleep(ms[2].o.Timeout)
	for _, id := range []string{"ingester-1", "ingester-2", "ingester-3"} {
		if got, ok := seen(ms[2], id); !ok || got.Addr == "" {
			t.Errorf("instance %s = %+v, %v", id, got, ok)
		}
	}
}

// TestVersionAhead checks that an entry with a version far in the future is not used, and is
// replaced.
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
	kit.Until(t, "the entry is counted as ignored and replaced", func() bool {
		return ignoredFor(ms[1], badVersion)+ignoredFor(ms[2], badVersion) > 0 && in.get(0, "ingester-1") != e.value
	})
	if got, _ := seen(ms[2], "ingester-1"); got.Addr != "ingester-1:1" {
		t.Errorf("address = %s, want ingester-1:1", got.Addr)
	}
}

// TestRotation checks that the ring stays complete at each step of a rotation of secrets,
// while a member is down.
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
				kit.Until(t, fmt.Sprintf("secrets %q, instance %d restarted: instance %d has all members", secrets, i, j), func() bool {
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
			kit.Until(t, "the entry of the member that is down is signed again", func() bool {
				e, err := decodeEntry(signer(t, two), "ingester-4", in.get(0, "ingester-4"))
				return err == nil && !e.aged
			})
		}
	}
	for j := range 3 {
		for _, reason := range []string{badSignature, badDecode, badVersion, badRemoval} {
			if n := ignoredFor(ms[j], reason); n > 0 {
				t.Errorf("%v values ignored for reason %s, want none", n, reason)
			}
		}
	}
}

// expiring is a Signer for which the certificate of a host has expired.
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

// TestExpiredCertificate checks that a new process has a member whose certificate has
// expired, but does not connect to it, and that a successor without a disk finds out that
// it replaces the member.
func TestExpiredCertificate(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	for _, alive := range []bool{true, false} {
		if !alive {
			_ = ms[0].Close()
		}
		fresh := openSigned(t, expiring{signer(t, secret), "ingester-1"}, srv.Addr, ring.Instance{}, "")
		kit.Until(t, "all members and heartbeats are read", func() bool {
			fresh.mu.Lock()
			defer fresh.mu.Unlock()
			return fresh.current.Load() != nil && (!alive || fresh.members["ingester-1"].beat > ms[0].mine.Version)
		})
		got, ok := seen(fresh, "ingester-1")
		if !ok || got.Addr != "" || !got.Unhealthy {
			t.Errorf("alive %v: member %v, address %q, unhealthy %v", alive, ok, got.Addr, got.Unhealthy)
		}
		if ignoredFor(fresh, badSignature) != 1 {
			t.Error("the entry is not counted as ignored")
		}
	}
	successor := openSigned(t, expiring{signer(t, secret), "ingester-1"}, srv.Addr, ring.Instance{ID: "ingester-1", Addr: "ingester-1b:1", Zone: "a"}, t.TempDir())
	if err := successor.Join(context.Background(), ring.Joining); err != nil {
		t.Fatal(err)
	}
	if fresh, replaced := successor.Fresh(); !fresh || !replaced || successor.LostZone() != "a" {
		t.Errorf("fresh %v, replaced %v, zone %q", fresh, replaced, successor.LostZone())
	}
	kit.Until(t, "others use the new address", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.Addr == "ingester-1b:1" })
}

// TestRedisTimeSetBack checks the ring after the clock of Redis was an hour ahead and is
// right again: a member that registers is used although the version of its entry is ahead,
// and a member that stops sending heartbeats becomes unhealthy after the normal timeout.
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
	// register simulates a new entry and heartbeat of the member at a time of Redis.
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
		t.Errorf("used %v, address %s", k.used, k.Addr)
	}
	register("x:2", ahead+1, ahead)
	m.readAt = right
	m.choose()
	m.readAt += 2 * m.o.Timeout.Milliseconds()
	m.choose()
	if m.recent(m.members["x"].beat) {
		t.Error("the heartbeat is still recent after twice the timeout")
	}
}
