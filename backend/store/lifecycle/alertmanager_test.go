package lifecycle_test

import (
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestAlertmanagerRows checks that expired silences and notifications are deleted, that verify and a rebuild of the index
// do not change the rows of Alertmanagers, and that the rows of a deleted tenant are erased.
func TestAlertmanagerRows(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	ctx, a := t.Context(), x.Index.Alertmanagers
	rows := func(id tenant.ID) (configured bool, secrets, silences int, notified bool) {
		t.Helper()
		s, err := a.Settings(ctx, id)
		x.Must(nil, err)
		list, _, err := a.Silences(ctx, id)
		x.Must(nil, err)
		n, err := a.Notification(ctx, schema.NotificationKey(id, "g", "r", "webhook", 0))
		x.Must(nil, err)
		return s.Exists, len(s.Secrets), len(list), n != schema.Notification{}
	}
	check := func(what string, id tenant.ID, configured bool, secrets, silences int, notified bool) {
		t.Helper()
		c, s, l, n := rows(id)
		if c != configured || s != secrets || l != silences || n != notified {
			t.Errorf("%s: tenant %s: configured %v, %d secrets, %d silences, notified %v", what, id, c, s, l, n)
		}
	}
	soon := x.Now.Add(time.Hour).UnixMilli()
	for _, id := range []tenant.ID{"a", "b"} {
		x.Must(nil, a.SetConfig(ctx, id, "c"))
		x.Must(nil, a.SetSecret(ctx, id, "s", []byte("x")))
		x.Must(nil, a.SetSilences(ctx, id, map[string]schema.Silence{"1": {Mesh: "m", Updated: 1, Expires: soon}, "2": {Mesh: "m", Updated: 1, Expires: 2 * soon}}))
		_, err := a.ReplaceNotification(ctx, schema.NotificationKey(id, "g", "r", "webhook", 0), schema.Notification{},
			schema.Notification{Sequence: 1, Entry: "e", Expires: soon})
		x.Must(nil, err)
	}
	x.Verify()
	_, err := x.Fsck.RebuildIndex(ctx, []tenant.ID{"a", "b"}, nil)
	x.Must(nil, err)
	x.Must(nil, x.Lifecycle.CleanAlertmanager(ctx, "a", x.Now))
	check("rebuilt", "a", true, 1, 2, true)
	check("rebuilt", "b", true, 1, 2, true)
	x.Must(nil, x.Lifecycle.CleanAlertmanager(ctx, "a", x.Now.Add(2*time.Hour)))
	check("expired", "a", true, 1, 1, false)
	check("not swept", "b", true, 1, 2, true)
	x.Deleted["b"] = true
	if _, err := x.Lifecycle.Erase(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	check("another tenant was deleted", "a", true, 1, 1, false)
	check("deleted", "b", false, 0, 0, false)
	if s, err := a.Settings(ctx, "b"); err != nil || s.Change != (index.AlertmanagerSettings{}).Change {
		t.Errorf("the settings of a deleted tenant: %+v, %v", s, err)
	}
}
