package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

func TestTouch(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, key := issue(t, c, "team-a")
	used := func() time.Time { return must(c.Token(ctx, tk.ID))(t).LastUsedAt }
	if !used().IsZero() {
		t.Errorf("used at %s", used())
	}
	first := w.clock.Now()
	c.Touch(key.ID())
	c.flushUses(ctx)
	if !used().Equal(first) {
		t.Errorf("used at %s, want %s", used(), first)
	}
	w.clock.Advance(59 * time.Second)
	c.Touch(key.ID())
	c.flushUses(ctx)
	if !used().Equal(first) {
		t.Errorf("last use was written again within a minute: %s", used())
	}
	w.clock.Advance(time.Second)
	c.Touch(key.ID())
	c.Start()
	c.Stop() // writes pending uses
	if !used().Equal(w.clock.Now()) {
		t.Errorf("used at %s, want %s", used(), w.clock.Now())
	}
	if !usable(t, c, key.ID()) {
		t.Error("not usable after being used")
	}
}

// TestTouchRetried checks that a use that could not be written is written by the next flush that
// succeeds, with its own time, and that other uses of the first flush count as written.
func TestTouchRetried(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, key := issue(t, c, "team-a")
	other, otherKey := issue(t, c, "team-b")
	used := func(id string) time.Time { return must(c.Token(ctx, id))(t).LastUsedAt }
	failing := func(op, row string) error {
		if op == "write" && strings.HasSuffix(row, key.ID()) {
			return errDown
		}
		return nil
	}
	w.store.set(failing)
	first := w.clock.Now()
	c.Touch(key.ID())
	c.Touch(otherKey.ID())
	c.flushUses(ctx)
	if !used(tk.ID).IsZero() || !used(other.ID).Equal(first) {
		t.Fatalf("used at %s and %s", used(tk.ID), used(other.ID))
	}
	w.clock.Advance(10 * time.Second)
	c.Touch(otherKey.ID()) // its last use was written less than a minute ago
	c.flushUses(ctx)
	w.store.set(nil)
	c.flushUses(ctx)
	if !used(tk.ID).Equal(first) || !used(other.ID).Equal(first) {
		t.Errorf("used at %s and %s, want %s", used(tk.ID), used(other.ID), first)
	}

	w.store.set(failing)
	w.clock.Advance(time.Minute)
	c.Touch(key.ID())
	c.flushUses(ctx)
	w.clock.Advance(time.Second)
	c.Touch(key.ID())
	w.store.set(nil)
	c.flushUses(ctx)
	if !used(tk.ID).Equal(w.clock.Now()) {
		t.Errorf("used at %s, want the later use at %s", used(tk.ID), w.clock.Now())
	}
	if n := len(c.uses.dirty); n > 0 {
		t.Errorf("%d uses wait although all were written", n)
	}
}

// TestTouchDuringWrite uses a key while its earlier use is written. If this write succeeds, the
// second use is not written, because it follows within a minute; otherwise it is written.
func TestTouchDuringWrite(t *testing.T) {
	for _, fails := range []bool{false, true} {
		w := newWorld(t)
		c := w.open()
		tk, key := issue(t, c, "team-a")
		first := w.clock.Now()
		c.Touch(key.ID())
		w.store.set(func(op, row string) error {
			if op != "write" || !strings.HasSuffix(row, key.ID()) {
				return nil
			}
			w.clock.Advance(time.Second)
			c.Touch(key.ID())
			if fails {
				return errDown
			}
			return nil
		})
		c.flushUses(ctx)
		w.store.set(nil)
		c.flushUses(ctx)
		want := first
		if fails {
			want = w.clock.Now()
		}
		if used := must(c.Token(ctx, tk.ID))(t).LastUsedAt; !used.Equal(want) {
			t.Errorf("the write fails: %v; used at %s, want %s", fails, used, want)
		}
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
				t.Errorf("page size %d: page has %d items", size, len(items))
			}
			for _, v := range items {
				got = append(got, v.ID)
			}
			if p.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("page size %d: %v", size, got)
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
		t.Error("the deleted token is usable or listed")
	}
	_, err := c.Token(ctx, one.ID)
	wantKind(t, "deleted token", err, NotFound)
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	for i := range 3 {
		e := must(c.StartEvent(ctx, Event{Actor: "admin", Action: fmt.Sprint("do ", i)}))(t)
		if i != 1 { // change 1 stays without an outcome, as if interrupted
			if err := c.EndEvent(ctx, e, Outcome{Status: 201, Target: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.Advance(time.Nanosecond)
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
		t.Error("EndEvent with a wrong ID returned no error")
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
	wantKind(t, "in progress", err, Conflict)
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
		t.Errorf("the store contains the response or the idempotency key in clear text, or cannot be read: %v, %v", r, err)
	}
	w.clock.Advance(keepRequests)
	req, earlier, err = c.BeginRequest(ctx, "key", "POST b")
	if err != nil || earlier != nil {
		t.Errorf("after a day: %v, %v", earlier, err)
	}
	if err := c.AbandonRequest(ctx, req); err != nil {
		t.Fatal(err)
	}
	if _, earlier, err = c.BeginRequest(ctx, "key", "POST c"); err != nil || earlier != nil {
		t.Errorf("after AbandonRequest: %v, %v", earlier, err)
	}
	w.clock.Advance(keepRequests)
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
		t.Error("Open accepted invalid default limits")
	}
}
