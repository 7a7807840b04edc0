package index

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/faulty"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestAlertmanagerSettings checks that the configuration and the secrets of a tenant can be set and deleted, that each
// write changes the number of the last change, and that another tenant does not see them.
func TestAlertmanagerSettings(t *testing.T) {
	ix, ctx := open(t), t.Context()
	a := ix.Alertmanagers
	changes := map[uint64]bool{}
	step := func(what string, err error, exists bool, yaml string, secrets map[string][]byte) {
		t.Helper()
		must(t, nil, err)
		s, err := a.Settings(ctx, "acme")
		must(t, nil, err)
		if s.Exists != exists || s.Config.YAML != yaml || !reflect.DeepEqual(s.Secrets, secrets) {
			t.Errorf("%s: %+v", what, s)
		}
		change, err := a.SettingsChange(ctx, "acme")
		must(t, nil, err)
		if change != s.Change || changes[change] {
			t.Errorf("%s: change %d, in the settings %d, seen before: %v", what, change, s.Change, changes[change])
		}
		changes[change] = true
	}
	step("nothing", nil, false, "", nil)
	step("configuration", a.SetConfig(ctx, "acme", "c1"), true, "c1", nil)
	step("secret", a.SetSecret(ctx, "acme", "s", []byte("x")), true, "c1", map[string][]byte{"s": []byte("x")})
	step("another configuration", a.SetConfig(ctx, "acme", "c2"), true, "c2", map[string][]byte{"s": []byte("x")})
	step("deleted", a.DeleteConfig(ctx, "acme"), false, "", map[string][]byte{"s": []byte("x")})
	step("deleted secret", a.DeleteSecret(ctx, "acme", "s"), false, "", nil)
	if s, err := a.Settings(ctx, "other"); err != nil || !reflect.DeepEqual(s, AlertmanagerSettings{}) {
		t.Errorf("another tenant: %+v, %v", s, err)
	}
}

// TestSilences checks that silences are written unless newer ones are stored, that concurrent writes are repeated,
// that a write with an unknown outcome succeeds, and that expired silences are deleted.
func TestSilences(t *testing.T) {
	ix, ctx := open(t), t.Context()
	a := ix.Alertmanagers
	put := func(id string, v schema.Silence) error {
		return a.SetSilences(ctx, "acme", map[string]schema.Silence{id: v})
	}
	one := schema.Silence{Mesh: "one", Updated: 5, Expires: 100}
	must(t, nil, put("a", one))
	_, first, err := a.Silences(ctx, "acme")
	must(t, nil, err)
	must(t, nil, put("a", one)) // again
	for _, late := range []schema.Silence{{Mesh: "older", Updated: 4}, {Mesh: "same time", Updated: 5}} {
		if err := put("a", late); !errors.Is(err, ErrSilenceChanged) {
			t.Errorf("%+v: %v", late, err)
		}
	}
	must(t, nil, put("a", schema.Silence{Mesh: "newer", Updated: 6, Expires: 100}))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := put(fmt.Sprint("b", i), schema.Silence{Mesh: "b", Updated: 1, Expires: 200}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, change, err := a.Silences(ctx, "acme")
	must(t, nil, err)
	if len(list) != 11 || list["a"].Mesh != "newer" || change == first {
		t.Errorf("%v, change %d, before %d", list, change, first)
	}
	must(t, nil, a.ForgetSilences(ctx, "acme", 150))
	if list, _, _ := a.Silences(ctx, "acme"); len(list) != 10 || list["a"].Mesh != "" {
		t.Errorf("after the expiry: %v", list)
	}
	if list, _, _ := a.Silences(ctx, "other"); len(list) != 0 {
		t.Errorf("another tenant: %v", list)
	}
	must(t, nil, ix.rows.Mutate(ctx, rows.RowMutation{Key: schema.SilencesKey("acme"), Mutations: []rows.Mutation{
		rows.Set(rows.System, schema.SilencePrefix+"broken", 0, []byte("x"))}}))
	if _, _, err := a.Silences(ctx, "acme"); !errors.Is(err, schema.ErrCorrupt) {
		t.Errorf("a corrupt silence: %v", err)
	}
}

// TestNotifications checks that a notification is replaced only if the stored one is the expected one, and that only
// expired notifications are deleted.
func TestNotifications(t *testing.T) {
	ix, ctx := open(t), t.Context()
	a := ix.Alertmanagers
	key := schema.NotificationKey("acme", "group", "receiver", "webhook", 0)
	replace := func(old, next schema.Notification, want bool) {
		t.Helper()
		held, err := a.ReplaceNotification(ctx, key, old, next)
		must(t, nil, err)
		if held != want {
			t.Errorf("%+v -> %+v: %v", old, next, held)
		}
	}
	none, claimed := schema.Notification{}, schema.Notification{Holder: "r", Number: 1, Sequence: 1, Expires: 5}
	replace(claimed, none, false)
	replace(none, claimed, true)
	replace(none, claimed, false)
	must(t, nil, a.ForgetNotifications(ctx, "acme", 5)) // claimed, and not expired
	sent := claimed
	sent.Holder, sent.Sequence, sent.Entry = "", 2, "e"
	replace(claimed, sent, true)
	if got, err := a.Notification(ctx, key); err != nil || got != sent {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, nil, a.ForgetNotifications(ctx, "other", 10))
	must(t, nil, a.ForgetNotifications(ctx, "acme", 5)) // not expired
	if got, _ := a.Notification(ctx, key); got != sent {
		t.Errorf("%+v was forgotten", sent)
	}
	must(t, nil, a.ForgetNotifications(ctx, "acme", 6))
	if got, _ := a.Notification(ctx, key); got != none {
		t.Errorf("%+v was not forgotten", got)
	}
}

// TestForgetManyNotifications checks that all expired notifications are deleted, also if there are more than one read
// returns, and that the others stay.
func TestForgetManyNotifications(t *testing.T) {
	ix, ctx := open(t), t.Context()
	const all = 2*forgetBatch + 10
	for i := range all {
		n := schema.Notification{Sequence: 1, Expires: 5}
		if i%100 == 0 {
			n.Expires = 50
		}
		_, err := ix.Alertmanagers.ReplaceNotification(ctx, schema.NotificationKey("acme", fmt.Sprint(i), "r", "webhook", 0), schema.Notification{}, n)
		must(t, nil, err)
	}
	must(t, nil, ix.Alertmanagers.ForgetNotifications(ctx, "acme", 10))
	left := 0
	must(t, nil, ix.rows.ReadRows(ctx, []rows.Range{rows.Prefix(schema.NotificationPrefix("acme"))}, rows.Filter{}, func(rows.Row) bool { left++; return true }))
	if want := (all + 99) / 100; left != want {
		t.Errorf("%d notifications are left, want %d", left, want)
	}
}

// changing changes silences before each conditional write.
type changing struct {
	rows.Store
	change func()
}

// CheckAndMutate implements rows.Store.
func (c changing) CheckAndMutate(ctx context.Context, key string, condition rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	c.change()
	return c.Store.CheckAndMutate(ctx, key, condition, then, otherwise)
}

// TestForgetChangedSilence checks that an expired silence is not deleted if a concurrent request changes it.
func TestForgetChangedSilence(t *testing.T) {
	mem, err := rowsmemory.Open()
	must(t, nil, err)
	defer func() { must(t, nil, mem.Close()) }()
	a := over(t, mem).Alertmanagers
	put := func(updated, expires int64) {
		must(t, nil, a.SetSilences(t.Context(), "acme", map[string]schema.Silence{"a": {Mesh: "a", Updated: updated, Expires: expires}}))
	}
	put(1, 5)
	must(t, nil, over(t, changing{mem, func() { put(2, 100) }}).Alertmanagers.ForgetSilences(t.Context(), "acme", 10))
	if list, _, err := a.Silences(t.Context(), "acme"); err != nil || list["a"].Expires != 100 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestSilencesFaults checks that silences are written if one of the two calls of the row store fails, whether it had an effect
// or not. If the first one fails, which reads the silences, the caller gets an error, and repeats the write.
func TestSilencesFaults(t *testing.T) {
	for n := 1; n <= 2; n++ {
		for _, kind := range []faults.Kind{faults.Rejected, faults.Lost} {
			mem, err := rowsmemory.Open()
			must(t, nil, err)
			plan := &faults.Plan{}
			plan.Fail(n, kind)
			ix := over(t, faulty.Store{Store: mem, Plan: plan})
			value := map[string]schema.Silence{"a": {Mesh: "a", Updated: 1}}
			err = ix.Alertmanagers.SetSilences(context.Background(), "acme", value)
			if (err != nil) != (n == 1) || len(plan.Calls()) < n {
				t.Errorf("call %d %s: error %v after the calls %q", n, kind, err, plan.Calls())
			}
			if err != nil {
				err = ix.Alertmanagers.SetSilences(context.Background(), "acme", value)
			}
			list, _, readErr := ix.Alertmanagers.Silences(context.Background(), "acme")
			if err != nil || readErr != nil || !reflect.DeepEqual(list, value) {
				t.Errorf("call %d %s: %v, %v, %v", n, kind, list, err, readErr)
			}
			must(t, nil, mem.Close())
		}
	}
}
