package redis

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/test/emulator"
)

func TestExchange(t *testing.T) {
	srv := emulator.Redis(t)
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer client.Close()
	e := New(client, "pallium:budget")
	ctx := context.Background()
	one := budget.Demands{"t": {1, 0.5, 0}, "u": {0, 0, 1 << 20}}
	if all, err := e.Exchange(ctx, "a", one); err != nil || len(all) != 1 || !maps.Equal(all["a"], one) {
		t.Fatalf("%v, %v", all, err)
	}
	many := budget.Demands{}
	for i := range budget.MaxTenants {
		many[tenant.ID(fmt.Sprint("tenant-", i))] = budget.Use{float64(i)}
	}
	all, err := e.Exchange(ctx, "b", many)
	if err != nil || len(all) != 2 || !maps.Equal(all["a"], one) || !maps.Equal(all["b"], many) {
		t.Fatalf("%d gateways, %v", len(all), err)
	}
	// One that died is gone after two seconds of Redis' time.
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
		t.Errorf("after its return: %v, %v", all, err)
	}
}

// TestRights: the commands and the key that docs/limits.md names are enough.
func TestRights(t *testing.T) {
	rights := strings.Fields("budget on >secret ~{pallium:budget} -@all +eval +evalsha +time +hset +hgetall +hdel +pexpire")
	srv := emulator.Redis(t, append([]string{"--user"}, rights...)...)
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr, Username: "budget", Password: "secret"})
	defer client.Close()
	ctx := context.Background()
	for range 2 {
		if all, err := New(client, "pallium:budget").Exchange(ctx, "a", nil); err != nil || len(all) != 1 {
			t.Errorf("%v, %v", all, err)
		}
	}
	if _, err := New(client, "another").Exchange(ctx, "a", nil); err == nil {
		t.Error("the user is not bound to the key: this test shows nothing")
	}
}

// TestExpires: nothing is left for ever in Redis.
func TestExpires(t *testing.T) {
	srv := emulator.Redis(t)
	client := goredis.NewClient(&goredis.Options{Addr: srv.Addr})
	defer client.Close()
	ctx := context.Background()
	if _, err := New(client, "x").Exchange(ctx, "a", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := client.PTTL(ctx, "{x}").Result(); err != nil || d <= 2*time.Second || d > time.Minute {
		t.Errorf("the key lives for %v more, %v", d, err)
	}
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
			t.Errorf("%v came back as %v, %v", d, again, err)
		}
	})
}
