package redis

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/redisconn"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// still opens a membership that reads the ring once, and then only when a test calls readRing:
// it reads the ring 12 seconds after a notification.
func still(t *testing.T, addr, secrets, id string) *Membership {
	t.Helper()
	client, err := redisconn.Open(redisconn.Config{Addresses: []string{addr}}, "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(Options{Client: client, Signer: signer(t, secrets), Self: ring.Instance{ID: id, Addr: id + ":1", Zone: id},
		Heartbeat: time.Hour, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(); _ = client.Close() })
	return m
}

func do(t *testing.T, m *Membership, fn func(context.Context) error) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := fn(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func ringVersion(in *intruder) int {
	in.t.Helper()
	n, err := in.client.HGet(context.Background(), in.m.keys[2], "version").Int()
	if err != nil {
		in.t.Fatal(err)
	}
	return n
}

// TestNoStorm checks that processes with different first secrets, or with different only
// secrets, do not replace each other's entries at an unbounded rate.
func TestNoStorm(t *testing.T) {
	const rounds, most = 20, 6
	one, two := secret, strings.Repeat("2", 40)
	t.Run("order of secrets swapped while a member is down", func(t *testing.T) {
		srv := programs.Redis(t)
		down := openSigned(t, signer(t, one), srv.Addr, ring.Instance{ID: "down", Zone: "a", Addr: "down:1"}, t.TempDir())
		if err := down.Join(context.Background(), ring.Active); err != nil {
			t.Fatal(err)
		}
		_ = down.Close()
		before, after := still(t, srv.Addr, one+" "+two, ""), still(t, srv.Addr, two+" "+one, "")
		in := newIntruder(t, srv, before)
		for _, m := range []*Membership{before, after} {
			kit.Until(t, "the member's heartbeat is too old", func() bool {
				do(t, m, m.readRing)
				m.mu.Lock()
				defer m.mu.Unlock()
				k, ok := m.members["down"]
				return ok && !m.recent(k.beat)
			})
		}
		began := ringVersion(in)
		for range rounds {
			in.set(3, "nobody", "x") // so that everything is read
			do(t, before, before.readRing)
			do(t, after, after.readRing)
		}
		if n := ringVersion(in) - began - rounds; n < 1 || n > most {
			t.Errorf("%d writes in %d rounds, want between 1 and 6", n, rounds)
		}
	})
	t.Run("a secret replaced in one step", func(t *testing.T) {
		srv := programs.Redis(t)
		old := still(t, srv.Addr, one, "")
		first := still(t, srv.Addr, one, "x")
		if err := first.Join(context.Background(), ring.Active); err != nil {
			t.Fatal(err)
		}
		do(t, old, old.readRing)
		_ = first.Close()
		x := still(t, srv.Addr, two, "x")
		if err := x.Join(context.Background(), ring.Active); err != nil {
			t.Fatal(err)
		}
		in := newIntruder(t, srv, old)
		began := ringVersion(in)
		for range rounds {
			do(t, old, old.readRing)
			do(t, x, x.sync)
		}
		if n := ringVersion(in) - began; n < 1 || n > most {
			t.Errorf("%d writes in %d rounds, want between 1 and 6", n, rounds)
		}
	})
}

// TestManyNotifications checks that the rate of reads is bounded whatever is published.
func TestManyNotifications(t *testing.T) {
	srv := programs.Redis(t)
	m := still(t, srv.Addr, secret, "")
	in := newIntruder(t, srv, m)
	ctx := context.Background()
	calls := func() int {
		text, err := in.client.Info(ctx, "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if found := regexp.MustCompile(`cmdstat_evalsha:calls=(\d+)`).FindStringSubmatch(text); found != nil {
			n, _ = strconv.Atoi(found[1])
		}
		return n
	}
	kit.Until(t, "the ring was read and the process is subscribed", func() bool {
		n, err := in.client.PubSubNumSub(ctx, m.channel).Result()
		return err == nil && n[m.channel] == 1 && calls() > 0
	})
	began := calls()
	for range 2000 {
		if err := in.client.Publish(ctx, m.channel, "x").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n := calls() - began; n > 2 {
		t.Errorf("%d reads, want at most 2", n)
	}
}

// TestDeletedWhileDown checks that an entry deleted without a notification is written back
// although its owner is down.
func TestDeletedWhileDown(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) && sees(ms[1], 3) })
	in := newIntruder(t, srv, ms[2])
	_ = ms[0].Close()
	if err := in.client.HDel(context.Background(), ms[2].keys[0], "ingester-1").Err(); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the entry is written back", func() bool {
		return in.client.HExists(context.Background(), ms[2].keys[0], "ingester-1").Val()
	})
}

// TestForgottenTwice checks that forgetting an untrusted entry of an instance that left does
// not make the instance's old entries valid again.
func TestForgottenTwice(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	version := ms[0].mine.Version
	if err := ms[0].Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	kit.Until(t, "the instance left", func() bool { return sees(ms[2], 2) })
	in.set(0, "ingester-1", "junk")
	kit.Until(t, "the entry is untrusted", func() bool { return ms[2].Untrusted("ingester-1") })
	if _, err := ms[2].Forget(context.Background(), "ingester-1"); err != nil {
		t.Fatal(err)
	}
	r, err := decodeRemoval(signer(t, secret), "ingester-1", in.get(3, "ingester-1"))
	if err != nil || r.Version < version {
		t.Errorf("version of the removal = %d, want at least the instance's %d: %v", r.Version, version, err)
	}
}

// TestIgnoredIsBounded checks that ignored values use bounded memory and log lines.
func TestIgnoredIsBounded(t *testing.T) {
	m := still(t, programs.Redis(t).Addr, secret, "")
	var log bytes.Buffer
	m.mu.Lock()
	defer m.mu.Unlock()
	m.o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	const values = 500
	for i := range values {
		m.ignore(strconv.Itoa(i)+strings.Repeat("n", 10_000), badSignature, strings.Repeat("v", 10_000), errors.New("no"))
	}
	held := 0
	for k, v := range m.noted {
		held += len(k) + len(v)
	}
	if n := ignoredFor(m, badSignature); n != values {
		t.Errorf("%v values counted, want 500", n)
	}
	if held > values*200 || strings.Count(log.String(), "\n") > maxLogged || log.Len() > 1000*maxLogged {
		t.Errorf("%d bytes of memory, %d lines and %d bytes of log, want less", held, strings.Count(log.String(), "\n"), log.Len())
	}
}

// TestVersionDamaged checks that writes work if the version of the ring is not a number, or
// is the largest number.
func TestVersionDamaged(t *testing.T) {
	srv := programs.Redis(t)
	ms, _ := members(t, srv.Addr, 3)
	kit.Until(t, "all are members", func() bool { return sees(ms[2], 3) })
	in := newIntruder(t, srv, ms[2])
	ctx := context.Background()
	for _, version := range []string{"abc", "", "9223372036854775807"} {
		if err := in.client.HSet(ctx, ms[2].keys[2], "version", version).Err(); err != nil {
			t.Fatal(err)
		}
		if err := ms[0].SetState(ctx, ring.Leaving); err != nil {
			t.Errorf("version %q: %v", version, err)
		}
		kit.Until(t, "others see the change", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.State == ring.Leaving })
		if err := ms[0].SetState(ctx, ring.Active); err != nil {
			t.Errorf("version %q: %v", version, err)
		}
		kit.Until(t, "others see the change", func() bool { got, _ := seen(ms[2], "ingester-1"); return got.State == ring.Active })
	}
}
