package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestKilledBetweenRecordAndLog loses the log entry of a revocation, as a crash
// does: the other process sees it when its entry is 30 s old.
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
		t.Fatalf("revoked without a log entry: %v", err)
	}
	w.store.set(nil)
	if usable(t, a, key.ID()) {
		t.Error("the revocation does not hold where it was made")
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if !usable(t, b, key.ID()) {
		t.Error("the log entry was written after all; the test shows nothing")
	}
	w.clock.add(entryLife)
	if usable(t, b, key.ID()) {
		t.Error("usable 30 s after the revocation")
	}
}

// TestOwedEntry is the same without the crash: the process that owes the entry
// appends it at its next poll.
func TestOwedEntry(t *testing.T) {
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
		t.Fatalf("revoked without a log entry: %v", err)
	}
	w.store.set(nil)
	for _, c := range []*Control{a, b} {
		if err := c.Poll(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if usable(t, b, key.ID()) {
		t.Error("usable after the owed entry")
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
		t.Fatal("revoked without a log entry")
	}
	w.store.set(nil)
	must(w.open().RevokeToken(ctx, tk.ID))(t) // by another process even
	if err := b.Poll(ctx); err != nil || usable(t, b, key.ID()) {
		t.Errorf("usable after the retry, %v", err)
	}
}

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	_, key := issue(t, c, "team-a")
	usable(t, c, key.ID())
	must(c.Limits(ctx, "team-a"))(t)
	w.store.set(down)
	w.clock.add(entryLife - time.Millisecond)
	if !usable(t, c, key.ID()) {
		t.Error("not usable from the cache")
	}
	must(c.Limits(ctx, "team-a"))(t)
	w.clock.add(time.Millisecond)
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
		t.Error("not usable when the store is back")
	}
}

func TestNegativeEntries(t *testing.T) {
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
		t.Errorf("%d reads of the store for an unknown key", reads)
	}
	for i := range 50_000 {
		c.credentials.put(fmt.Sprint(i), c.credentials.generation(), credential{}, false)
	}
	if n := len(c.credentials.missing.items); n > 20_000 {
		t.Errorf("%d negative entries", n)
	}
}

// TestReadDuringRevocation revokes a key between a lookup's read and its entry
// into the cache.
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
		t.Error("what was read before the revocation was cached after it")
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
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
}

// TestLogUnderContention appends from two processes at once; no change may be
// lost or numbered twice.
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
		t.Errorf("head went from %d to %d, %v", before, after, err)
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
	// b has missed changes, so it keeps nothing.
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(b.credentials.found.items); n != 0 {
		t.Errorf("%d entries kept", n)
	}
}

// TestFollow runs the real loop: what one process revokes, another refuses.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	b.Start()
	defer b.Stop()
	tk, key := issue(t, a, "team-a")
	usable(t, b, key.ID())
	must(a.RevokeToken(ctx, tk.ID))(t)
	for usable(t, b, key.ID()) { // ends, or the test times out
		time.Sleep(10 * time.Millisecond)
	}
}

func TestTouch(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, key := issue(t, c, "team-a")
	used := func() time.Time { return must(c.Token(ctx, tk.ID))(t).LastUsedAt }
	if !used().IsZero() {
		t.Errorf("used at %s", used())
	}
	first := w.clock.now()
	c.Touch(key.ID())
	c.flushUses(ctx)
	if !used().Equal(first) {
		t.Errorf("used at %s, want %s", used(), first)
	}
	w.clock.add(59 * time.Second)
	c.Touch(key.ID())
	c.flushUses(ctx)
	if !used().Equal(first) {
		t.Errorf("written again within a minute: %s", used())
	}
	w.clock.add(time.Second)
	c.Touch(key.ID())
	c.Start()
	c.Stop() // writes what is left
	if !used().Equal(w.clock.now()) {
		t.Errorf("used at %s, want %s", used(), w.clock.now())
	}
	if !usable(t, c, key.ID()) {
		t.Error("not usable after being used")
	}
}

func TestPages(t *testing.T) {
	c := newWorld(t).open()
	var want []tenant.ID
	for i := range 25 {
		id := tenant.ID(fmt.Sprintf("t%02d", i))
		must(c.CreateTenant(ctx, Tenant{ID: id}))(t)
		want = append(want, id)
	}
	if err := c.DeleteTenant(ctx, "t13", AnyETag); err != nil {
		t.Fatal(err)
	}
	want = append([]tenant.ID{tenant.Self}, slices.Delete(want, 13, 14)...)
	for _, size := range []int{1, 5, 24, 25, 26, 0} {
		var got []tenant.ID
		p := Page{Size: size}
		for {
			items, next, err := c.Tenants(ctx, p, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(items) > pageSize(p) || len(items) == 0 {
				t.Errorf("page of %d has %d items", size, len(items))
			}
			for _, v := range items {
				got = append(got, v.ID)
			}
			if p.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v", size, got)
		}
	}
	_, next, err := c.Tenants(ctx, Page{Size: 3}, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, cursor := range map[string]string{"junk": "junk", "short": "AAAA", "altered": "A" + next[1:], "longer": next + "AA"} {
		_, _, err := c.Tenants(ctx, Page{Cursor: cursor}, false)
		wantKind(t, name, err, Invalid)
	}
	_, _, err = c.Plans(ctx, Page{Cursor: next})
	wantKind(t, "cursor of another list", err, Invalid)
	_, _, err = c.Tenants(ctx, Page{Cursor: next}, true)
	wantKind(t, "cursor of another query", err, Invalid)
	_, _, err = c.Tenants(ctx, Page{Size: 501}, true)
	wantKind(t, "large page", err, Invalid)
}

func TestTokenLists(t *testing.T) {
	c := newWorld(t).open()
	one, _ := issue(t, c, "a")
	issue(t, c, "b")
	issue(t, c, "b")
	count := func(q TokenQuery) int {
		items, _, err := c.Tokens(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		return len(items)
	}
	for _, q := range []struct {
		q TokenQuery
		n int
	}{
		{TokenQuery{}, 3}, {TokenQuery{Tenant: "a"}, 1}, {TokenQuery{Tenant: "b"}, 2}, {TokenQuery{Policy: one.Policy}, 1},
		{TokenQuery{Policy: one.Policy, Tenant: "b"}, 0}, {TokenQuery{Policy: "none"}, 0}, {TokenQuery{Tenant: "none"}, 0},
	} {
		if n := count(q.q); n != q.n {
			t.Errorf("%+v: %d tokens, want %d", q.q, n, q.n)
		}
	}
	have := must(c.Token(ctx, one.ID))(t)
	wantKind(t, "delete with a stale ETag", c.DeleteToken(ctx, one.ID, "x"), Stale)
	if err := c.DeleteToken(ctx, one.ID, have.ETag); err != nil {
		t.Fatal(err)
	}
	if usable(t, c, one.KeyID) || count(TokenQuery{}) != 2 {
		t.Error("deleted token is still there")
	}
	_, err := c.Token(ctx, one.ID)
	wantKind(t, "deleted token", err, NotFound)
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	for i := range 3 {
		e := must(c.StartEvent(ctx, Event{Actor: "admin", Action: fmt.Sprint("do ", i)}))(t)
		if i != 1 { // that one was cut off
			if err := c.EndEvent(ctx, e, Outcome{Status: 201, Target: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.add(time.Nanosecond)
	}
	events, next, err := c.Events(ctx, Page{Size: 2})
	if err != nil || len(events) != 2 || next == "" || events[0].Action != "do 2" || events[0].Status != 201 || events[1].Status != 0 {
		t.Errorf("events %+v, %v", events, err)
	}
	events, next, err = c.Events(ctx, Page{Size: 2, Cursor: next})
	if err != nil || len(events) != 1 || next != "" || events[0].Action != "do 0" {
		t.Errorf("events %+v, %v", events, err)
	}
	if err := c.EndEvent(ctx, Event{ID: "junk"}, Outcome{}); err == nil {
		t.Error("a wrong ID was taken")
	}
}

func TestIdempotency(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	req, earlier, err := c.BeginRequest(ctx, "key", "POST a")
	if err != nil || earlier != nil {
		t.Fatal(earlier, err)
	}
	_, _, err = c.BeginRequest(ctx, "key", "POST a")
	wantKind(t, "under way", err, Conflict)
	if err := c.EndRequest(ctx, req, Answer{Status: 201, Body: []byte("plm_secret")}); err != nil {
		t.Fatal(err)
	}
	_, earlier, err = w.open().BeginRequest(ctx, "key", "POST a")
	if err != nil || earlier == nil || earlier.Status != 201 || string(earlier.Body) != "plm_secret" {
		t.Errorf("replay: %+v, %v", earlier, err)
	}
	_, _, err = c.BeginRequest(ctx, "key", "POST b")
	wantKind(t, "other request", err, Conflict)
	r, err := c.readRow(ctx, req.key)
	if err != nil || strings.Contains(fmt.Sprint(r), "plm_secret") || strings.Contains(r.Key, "key") {
		t.Errorf("the answer is readable in the store: %v, %v", r, err)
	}
	w.clock.add(keepRequests)
	req, earlier, err = c.BeginRequest(ctx, "key", "POST b")
	if err != nil || earlier != nil {
		t.Errorf("after a day: %v, %v", earlier, err)
	}
	if err := c.AbandonRequest(ctx, req); err != nil {
		t.Fatal(err)
	}
	if _, earlier, err = c.BeginRequest(ctx, "key", "POST c"); err != nil || earlier != nil {
		t.Errorf("after giving up: %v, %v", earlier, err)
	}
	w.clock.add(keepRequests)
	if err := c.sweepIdempotency(ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := c.readRow(ctx, req.key); err != nil || len(r.Cells) != 0 {
		t.Errorf("left after the sweep: %v, %v", r, err)
	}
}

func TestNames(t *testing.T) {
	c := newWorld(t).open()
	for _, id := range []tenant.ID{"", ".", "..", "a/b", "a|b", "a b", "ü", "__markers__", tenant.ID(strings.Repeat("x", 151))} {
		_, err := c.CreateTenant(ctx, Tenant{ID: id})
		wantKind(t, "tenant "+string(id), err, Invalid)
		_, err = c.Tenant(ctx, id)
		wantKind(t, "get tenant "+string(id), err, NotFound)
	}
	for _, name := range []string{"", ".", "-a", "a/b", "a:b", "a b", strings.Repeat("x", 151)} {
		_, err := c.CreatePlan(ctx, Plan{Name: name})
		wantKind(t, "plan "+name, err, Invalid)
		_, err = c.Plan(ctx, name)
		wantKind(t, "get plan "+name, err, NotFound)
	}
	_, err := c.CreateTenant(ctx, Tenant{ID: "a", DisplayName: "\xff"})
	wantKind(t, "display name", err, Invalid)
	_, err = c.Policy(ctx, strings.Repeat("x", 5000))
	wantKind(t, "long policy name", err, NotFound)
	_, err = c.Token(ctx, strings.Repeat("x", 5000))
	wantKind(t, "long token ID", err, NotFound)
	if _, err := Open(ctx, Options{Store: c.store, Pepper: c.pepper, Defaults: limits.Limits{MaxActiveSeries: -1}}); err == nil {
		t.Error("bad defaults were taken")
	}
}
