package redis

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// signer returns a member of a cluster with the secret.
func signer(t *testing.T, secret string) Signer {
	t.Helper()
	secrets, err := cluster.ParseSecrets(secret)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	secret  = "a"
	another = "b"
)

func secretOf(letter string) string { return strings.Repeat(letter, cluster.MinSecretBytes) }

// open returns an exchange, its metrics and another client for the test.
func open(t *testing.T, addr string, s Signer) (*Exchange, *prometheus.Registry, *goredis.Client) {
	t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	t.Cleanup(func() { _ = client.Close() })
	reg := prometheus.NewRegistry()
	return New(client, key, s, Options{Registerer: reg}), reg, client
}

const (
	key   = "pallium:budget"
	field = "{pallium:budget}"
)

func TestExchange(t *testing.T) {
	srv := programs.Redis(t)
	e, _, _ := open(t, srv.Addr, signer(t, secretOf(secret)))
	f, _, _ := open(t, srv.Addr, signer(t, secretOf(secret)))
	ctx := context.Background()
	one := budget.Demands{"t": {1, 0.5, 0}, "u": {0, 0, 1 << 20}}
	if all, err := e.Exchange(ctx, "a", one); err != nil || len(all) != 1 || !maps.Equal(all["a"], one) {
		t.Fatalf("Exchange = %v, %v", all, err)
	}
	many := budget.Demands{}
	for i := range budget.MaxTenants {
		many[tenant.ID(fmt.Sprint("tenant-", i))] = budget.Use{float64(i)}
	}
	all, err := f.Exchange(ctx, "b", many)
	if err != nil || len(all) != 2 || !maps.Equal(all["a"], one) || !maps.Equal(all["b"], many) {
		t.Fatalf("%d gateways, %v", len(all), err)
	}
	// A gateway that ended is not live after two seconds of Redis' time.
	for deadline := time.Now().Add(30 * time.Second); len(all) != 1; time.Sleep(50 * time.Millisecond) {
		if all, err = e.Exchange(ctx, "a", nil); err != nil || time.Now().After(deadline) {
			t.Fatalf("%d gateways, %v", len(all), err)
		}
	}
	srv.Kill()
	if _, err := e.Exchange(ctx, "a", one); err == nil {
		t.Error("no error without Redis")
	}
	srv.Start()
	if all, err := e.Exchange(ctx, "a", one); err != nil || len(all) != 1 {
		t.Errorf("after Redis started again: %v, %v", all, err)
	}
}

// TestDocumentedRights checks that the commands and the key in docs/limits.md suffice.
func TestDocumentedRights(t *testing.T) {
	rights := strings.Fields("budget on >secret ~{pallium:budget} -@all +eval +evalsha +time +hset +hget +hgetall +hdel +del +pexpire")
	srv := programs.Redis(t, append([]string{"--user"}, rights...)...)
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr, Username: "budget", Password: "secret"})
	defer client.Close()
	admin := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer admin.Close()
	ctx, s := context.Background(), signer(t, secretOf(secret))
	e := New(client, key, s, Options{})
	for step, change := range []func() error{
		func() error { return nil },
		func() error { return admin.HSet(ctx, field, "b", "junk").Err() },
		func() error { return nil }, // this exchange deletes the invalid field
		func() error { return admin.Set(ctx, field, "no hash", 0).Err() },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if all, err := e.Exchange(ctx, "a", nil); err != nil || len(all) != 1 {
			t.Errorf("step %d: %v, %v", step, all, err)
		}
	}
	if _, err := New(client, "another", s, Options{}).Exchange(ctx, "a", nil); err == nil {
		t.Error("the user may access other keys: the test has no meaning")
	}
}

// TestExpires checks that the key in Redis expires.
func TestExpires(t *testing.T) {
	srv := programs.Redis(t)
	e, _, client := open(t, srv.Addr, signer(t, secretOf(secret)))
	ctx := context.Background()
	if _, err := e.Exchange(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := client.PTTL(ctx, field).Result(); err != nil || d <= 2*time.Second || d > time.Minute {
		t.Errorf("TTL of the key = %v, %v", d, err)
	}
}

// ignored returns the values of the metric of ignored fields.
func ignored(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, m := range families[0].Metric {
		if v := m.GetCounter().GetValue(); v > 0 {
			out[m.Label[0].GetValue()] = v
		}
	}
	return out
}

// TestInvalidFields checks that fields that no gateway of the cluster wrote are ignored and
// deleted, and do not disturb exchanges.
func TestInvalidFields(t *testing.T) {
	ctx := context.Background()
	right, wrong := signer(t, secretOf(secret)), signer(t, secretOf(another))
	// signedAt returns a value of a gateway at a time relative to Redis' time.
	signedAt := func(s Signer, id string, ahead time.Duration) string {
		e := New(nil, key, s, Options{})
		e.redis, e.at = time.Now().Add(ahead).UnixMilli(), time.Now()
		v, err := e.sign(id, budget.Demands{"t": {1, 1, 1}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name, value, reason string
		counts, gone        bool
	}{
		{"valid", signedAt(right, "b", 0), "", true, false},
		{"a clock that is a little ahead", signedAt(right, "b", 5*time.Second), "", true, false},
		{"not live", signedAt(right, "b", -5*time.Second), "", false, false},
		{"old", signedAt(right, "b", -15*time.Second), "", false, true},
		{"future", signedAt(right, "b", time.Minute), future, false, true},
		{"forged", signedAt(wrong, "b", 0), forged, false, true},
		{"another gateway's", signedAt(right, "c", 0), forged, false, true},
		{"another time", strings.Replace(signedAt(right, "b", 0), " 1", " 2", 1), forged, false, true},
		{"other demands", signedAt(right, "b", 0) + "x", forged, false, true},
		{"older version", fmt.Sprintf("%016d", time.Now().UnixMilli()) + encode(budget.Demands{"t": {1, 1, 1}}), damaged, false, true},
		{"dated far ahead by hand", "9999999999999999", damaged, false, true},
		{"not a number", "2 x y z", damaged, false, true},
		{"empty", "", damaged, false, true},
		{"truncated", signedAt(right, "b", 0)[:40], damaged, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := programs.Redis(t)
			e, reg, client := open(t, srv.Addr, right)
			if err := client.HSet(ctx, field, "b", c.value).Err(); err != nil {
				t.Fatal(err)
			}
			all, err := e.Exchange(ctx, "a", budget.Demands{"t": {1, 1, 1}})
			if _, counts := all["b"]; err != nil || counts != c.counts || len(all["a"]) != 1 {
				t.Errorf("Exchange = %v, %v", all, err)
			}
			if got := ignored(t, reg); c.reason == "" && len(got) > 0 || c.reason != "" && got[c.reason] != 1 {
				t.Errorf("ignored: %v", got)
			}
			if _, err := e.Exchange(ctx, "a", nil); err != nil {
				t.Fatal(err)
			}
			if there, err := client.HExists(ctx, field, "b").Result(); err != nil || there == c.gone {
				t.Errorf("field exists = %v, %v", there, err)
			}
		})
	}
}

// TestReplay checks that neither an older value of a gateway nor the deletion of its
// field changes its demand.
func TestReplay(t *testing.T) {
	srv := programs.Redis(t)
	s := signer(t, secretOf(secret))
	e, _, client := open(t, srv.Addr, s)
	f, _, _ := open(t, srv.Addr, s)
	ctx := context.Background()
	first, second := budget.Demands{"t": {1, 1, 1}}, budget.Demands{"t": {2, 2, 2}}
	if _, err := f.Exchange(ctx, "b", first); err != nil {
		t.Fatal(err)
	}
	old, err := client.HGet(ctx, field, "b").Result()
	if err != nil {
		t.Fatal(err)
	}
	for now := old; now == old; { // at least a millisecond later
		if _, err := f.Exchange(ctx, "b", second); err != nil {
			t.Fatal(err)
		}
		if now, err = client.HGet(ctx, field, "b").Result(); err != nil {
			t.Fatal(err)
		}
		if at := func(v string) string { return strings.Fields(v)[1] }; at(now) == at(old) {
			now = old
		}
	}
	for _, change := range []func() error{
		func() error { return nil },
		func() error { return client.HSet(ctx, field, "b", old).Err() },
		func() error { return client.HDel(ctx, field, "b").Err() },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if all, err := e.Exchange(ctx, "a", nil); err != nil || !maps.Equal(all["b"], second) {
			t.Errorf("Exchange = %v, %v", all, err)
		}
	}
}

// TestManyInvalidFields checks that thousands of invalid fields do not count as gateways, and are
// deleted.
func TestManyInvalidFields(t *testing.T) {
	srv := programs.Redis(t)
	s := signer(t, secretOf(secret))
	var log bytes.Buffer
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer client.Close()
	e := New(client, key, s, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx := context.Background()
	values := []any{"large", strings.Repeat("x", 3<<20), strings.Repeat("y", 300), "x"}
	for i := range 2000 {
		values = append(values, fmt.Sprint("junk-", i), "9999999999999999")
	}
	if err := client.HSet(ctx, field, values...).Err(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if all, err := e.Exchange(ctx, "a", budget.Demands{"t": {1, 1, 1}}); err != nil || len(all) != 1 {
			t.Fatalf("%d gateways, %v", len(all), err)
		}
		if n, err := client.HExists(ctx, field, "large").Result(); err != nil || n {
			t.Errorf("the large field still exists: %v, %v", n, err)
		}
	}
	if n, err := client.HLen(ctx, field).Result(); err != nil || n != 1 {
		t.Errorf("%d fields are left, want 1, %v", n, err)
	}
	if n := strings.Count(log.String(), "ignored and deleted"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

// TestChangedFieldIsKept checks that a field is not deleted if a gateway has overwritten the
// invalid value.
func TestChangedFieldIsKept(t *testing.T) {
	srv := programs.Redis(t)
	s := signer(t, secretOf(secret))
	e, _, client := open(t, srv.Addr, s)
	f, _, _ := open(t, srv.Addr, s)
	ctx := context.Background()
	if err := client.HSet(ctx, field, "b", "junk", "c", "junk").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Exchange(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Exchange(ctx, "b", nil); err != nil {
		t.Fatal(err)
	}
	if err := client.HSet(ctx, field, "c", "other junk").Err(); err != nil {
		t.Fatal(err)
	}
	if all, err := e.Exchange(ctx, "a", nil); err != nil || len(all) != 2 {
		t.Errorf("Exchange = %v, %v", all, err)
	}
	fields, err := client.HKeys(ctx, field).Result()
	slices.Sort(fields)
	if err != nil || !slices.Equal(fields, []string{"a", "b", "c"}) {
		t.Errorf("the fields in Redis are %v (%v), want a, b and c", fields, err)
	}
	if _, err := e.Exchange(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if there, err := client.HExists(ctx, field, "c").Result(); err != nil || there {
		t.Errorf("changed invalid field exists = %v, %v", there, err)
	}
}

// TestClock checks that the time of Redis is used, not that of gateways.
func TestClock(t *testing.T) {
	srv := programs.Redis(t)
	s := signer(t, secretOf(secret))
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer client.Close()
	for n, id := range []string{"a", "b"} {
		ahead := time.Duration(n) * time.Hour
		e := New(client, key, s, Options{Now: func() time.Time { return time.Now().Add(ahead) }})
		if all, err := e.Exchange(context.Background(), id, nil); err != nil || len(all) != n+1 {
			t.Errorf("%s: %v, %v", id, all, err)
		}
	}
}

// idle is a gateway without demand.
type idle struct{ share budget.Share }

func (*idle) Demands(func(tenant.ID, budget.Use))                                {}
func (i *idle) SetShares(_ map[tenant.ID]budget.Share, rest budget.Share, _ int) { i.share = rest }

// TestIdle checks that invalid fields do not reduce the share of a tenant with little
// demand.
func TestIdle(t *testing.T) {
	srv := programs.Redis(t)
	e, _, client := open(t, srv.Addr, signer(t, secretOf(secret)))
	var values []any
	for i := range 2000 {
		values = append(values, fmt.Sprint("junk-", i), "9999999999999999")
	}
	ctx := context.Background()
	if err := client.HSet(ctx, field, values...).Err(); err != nil {
		t.Fatal(err)
	}
	of := &idle{}
	sharer := budget.New(budget.Options{ID: "a", Exchange: e, Tenants: of, Gateways: 4})
	sharer.Step(ctx)
	if of.share != budget.Whole() {
		t.Errorf("share = %v, want the whole", of.share)
	}
}

// FuzzVerify checks that verify accepts a value only in the field of the gateway that signed it, and
// only if the value has the current version.
func FuzzVerify(f *testing.F) {
	secrets, err := cluster.ParseSecrets(secretOf(secret))
	if err != nil {
		f.Fatal(err)
	}
	m, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		f.Fatal(err)
	}
	e := New(nil, key, m, Options{})
	right, err := e.sign("a", budget.Demands{"t": {1, 2, 3}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a", right)
	f.Add("b", right)
	f.Add("a", "2 1 m z")
	f.Fuzz(func(t *testing.T, field, value string) {
		if _, err := e.verify(field, value); err == nil && (field != "a" || !strings.HasPrefix(value, "2 ")) {
			t.Errorf("verify accepted %q of %q", value, field)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(budget.Demands{"t": {1, 2, 3}, "u": {}}))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := decode(s)
		if err != nil {
			return
		}
		again, err := decode(encode(d))
		if err != nil || !maps.Equal(d, again) {
			t.Errorf("decode(encode(%v)) = %v, %v", d, again, err)
		}
	})
}
