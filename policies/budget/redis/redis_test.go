package redis

import (
	"context"
	"fmt"
	"maps"
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
