package control

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

// TestKilledBetweenRecordAndLog checks that a revocation whose entry in the change log was lost in
// a crash takes effect in another process as soon as the credential in its cache is 30 s old.
func TestKilledBetweenRecordAndLog(t *testing.T) {
	w := newWorld(t)
	a := w.open()
	tk, key := issue(t, a, "team-a")
	b := w.open()
	usable(t, b, key.ID())
	w.store.set(func(op, k string) error {
		if op == "write" && k == keyLog {
			return errDown
		}
		return nil
	})
	if _, err := a.RevokeToken(ctx, tk.ID); !errors.Is(err, errDown) {
		t.Fatalf("RevokeToken without a log entry = %v, want errDown", err)
	}
	w.store.set(nil)
	if usable(t, a, key.ID()) {
		t.Error("the key is usable in the process that revoked it")
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if !usable(t, b, key.ID()) {
		t.Error("the log entry was written: the test has no meaning")
	}
	w.clock.Advance(entryLife)
	if usable(t, b, key.ID()) {
		t.Error("the key is usable 30 s after the revocation")
	}
}

// TestPendingEntry checks that a process appends an entry of the change log at its next poll if the
// append failed first.
func TestPendingEntry(t *testing.T) {
	w := newWorld(t)
	a := w.open()
	tk, key := issue(t, a, "team-a")
	b := w.open()
	usable(t, b, key.ID())
	w.store.set(func(_, k string) error {
		if k == keyLog {
			return errDown
		}
		return nil
	})
	if _, err := a.RevokeToken(ctx, tk.ID); !errors.Is(err, errDown) {
		t.Fatalf("RevokeToken without a log entry = %v, want errDown", err)
	}
	w.store.set(nil)
	for _, c := range []*Control{a, b} {
		if err := c.Poll(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if usable(t, b, key.ID()) {
		t.Error("the key is usable after the pending entry was appended")
	}
}

func TestRetriedRevocation(t *testing.T) {
	w := newWorld(t)
	a := w.open()
	tk, key := issue(t, a, "team-a")
	b := w.open()
	usable(t, b, key.ID())
	w.store.set(func(_, k string) error {
		if k == keyLog {
			return errDown
		}
		return nil
	})
	if _, err := a.RevokeToken(ctx, tk.ID); err == nil {
		t.Fatal("RevokeToken without a log entry returned no error")
	}
	w.store.set(nil)
	must(w.open().RevokeToken(ctx, tk.ID))(t) // by another process
	if err := b.Poll(ctx); err != nil || usable(t, b, key.ID()) {
		t.Errorf("the key is usable after the retry, %v", err)
	}
}

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	_, key := issue(t, c, "team-a")
	usable(t, c, key.ID())
	must(c.Limits(ctx, "team-a"))(t)
	w.store.set(down)
	w.clock.Advance(entryLife - time.Millisecond)
	if !usable(t, c, key.ID()) {
		t.Error("the cached key is not usable while the store is down")
	}
	must(c.Limits(ctx, "team-a"))(t)
	w.clock.Advance(time.Millisecond)
	if _, err := c.Credential(ctx, key.ID()); !errors.Is(err, errDown) || errors.Is(err, apikey.ErrNotFound) {
		t.Errorf("credential: %v", err)
	}
	if _, err := c.Limits(ctx, "team-a"); !errors.Is(err, errDown) || errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("limits: %v", err)
	}
	if _, err := c.Credential(ctx, "000000000000"); !errors.Is(err, errDown) {
		t.Errorf("unknown key: %v", err)
	}
	if err := c.Poll(ctx); !errors.Is(err, errDown) {
		t.Errorf("poll: %v", err)
	}
	w.store.set(nil)
	if !usable(t, c, key.ID()) {
		t.Error("the key is not usable after the store is available again")
	}
}

func TestUnknownKeysAreCached(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	reads := 0
	w.store.set(func(op, k string) error { reads++; return nil })
	for range 3 {
		if usable(t, c, "000000000000") || usable(t, c, "short") {
			t.Error("unknown key is usable")
		}
	}
	if reads != 1 {
		t.Errorf("%d reads of the store for an unknown key, want 1", reads)
	}
	for i := range 50_000 {
		c.credentials.put(fmt.Sprint(i), c.credentials.generation(), credential{}, false)
	}
	if n := c.credentials.missing.items.Len(); n > 20_000 {
		t.Errorf("%d unknown keys are cached", n)
	}
}

// TestReadDuringRevocation checks that a credential is not cached if the key was revoked after the
// credential was read.
func TestReadDuringRevocation(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, key := issue(t, c, "team-a")
	gen := c.credentials.generation()
	old, err := c.readCredential(ctx, key.ID())
	if err != nil {
		t.Fatal(err)
	}
	must(c.RevokeToken(ctx, tk.ID))(t)
	c.credentials.put(key.ID(), gen, old, true)
	if usable(t, c, key.ID()) {
		t.Error("a credential read before the revocation was cached after it")
	}
}

func TestConcurrentUpdatesOneWinner(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	tn := must(a.CreateTenant(ctx, Tenant{ID: "a"}))(t)
	var won, lost atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, mine := a, tn
			if i%2 == 0 {
				c = b
			}
			mine.DisplayName = fmt.Sprint(i)
			switch _, err := c.UpdateTenant(ctx, mine); {
			case err == nil:
				won.Add(1)
			case IsKind(err, Stale):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 7 {
		t.Errorf("%d updates succeeded, %d were stale, want 1 and 7", won.Load(), lost.Load())
	}
}

// TestLogUnderContention checks that no change is lost if two processes append concurrently.
func TestLogUnderContention(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	before, err := a.readHead(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			c := a
			if i%2 == 0 {
				c = b
			}
			if err := c.publish(ctx, changedKey, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	after, err := a.readHead(ctx)
	if err != nil || after != before+40 {
		t.Errorf("number of the last change went from %d to %d (%v), want 40 more", before, after, err)
	}
}

func TestLogIsBounded(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	_, key := issue(t, a, "team-a")
	usable(t, b, key.ID())
	for i := range keepChanges + 10 {
		if err := a.publish(ctx, changedPlan, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := a.readRow(ctx, keyLog)
	if err != nil || len(r.Cells) != keepChanges+1 {
		t.Errorf("%d cells in the log, %v", len(r.Cells), err)
	}
	// b has missed changes, so it drops its cache.
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.credentials.found.items.Len(); n != 0 {
		t.Errorf("%d entries are still cached, want none", n)
	}
}

// TestFollow checks that the background work makes a process reject a key that another one revoked.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	b.Start()
	defer b.Stop()
	tk, key := issue(t, a, "team-a")
	usable(t, b, key.ID())
	must(a.RevokeToken(ctx, tk.ID))(t)
	kit.Until(t, "the other process rejects the key", func() bool { return !usable(t, b, key.ID()) })
}
