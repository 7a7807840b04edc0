package redis

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestServerFails checks that every failure of a server is a miss and is counted, and that after a
// few failures the server is not called.
func TestServerFails(t *testing.T) {
	stopped := kit.FreeAddr(t)
	says := func(reply string) string { return fake(t, func(string) string { return reply }) }
	for name, c := range map[string]struct{ addr, result string }{
		"stopped":            {stopped, timeout}, // connecting is retried until the timeout
		"never answers":      {says(""), timeout},
		"error":              {says("-ERR no\r\n"), failed},
		"no permission":      {says("-NOPERM no\r\n"), failed},
		"garbage":            {says("garbage\r\n"), failed},
		"another type":       {says("*1\r\n$1\r\nx\r\n"), failed},
		"negative length":    {says("$-5\r\n"), failed},
		"impossible length":  {says("$9223372036854775807\r\n"), failed},
		"unfinished answers": {says("$100\r\nabc"), timeout},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			clock := kit.NewClock(time.Unix(1e9, 0))
			o := Options{Now: clock.Now, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			if c.result == timeout {
				o.GetTimeout, o.PutTimeout = 50*time.Millisecond, 50*time.Millisecond
			}
			cache := start(t, client(t, at(c.addr), ""), o)
			for range failuresToOpen + 2 {
				if got := cache.Get(context.Background(), "t", []string{"a", "b"}); len(got) != 0 {
					t.Errorf("got %q", got)
				}
			}
			if cache.looked(c.result) != 2*failuresToOpen || cache.looked(circuitOpen) != 4 {
				t.Errorf("counted %v as %s and %v as circuit_open, want 6 and 4", cache.looked(c.result), c.result, cache.looked(circuitOpen))
			}
			for range failuresToOpen + 2 {
				cache.Put(context.Background(), "t", "k", []byte("v"))
				settle(t, cache)
			}
			if cache.put(c.result) != failuresToOpen || cache.put(circuitOpen) != 2 {
				t.Errorf("dropped %v as %s and %v as circuit_open, want 3 and 2", cache.put(c.result), c.result, cache.put(circuitOpen))
			}
			if n := strings.Count(log.String(), "continuing without it"); n != 1 {
				t.Errorf("%d lines in the log, want 1: %s", n, log.String())
			}
		})
	}
}

// TestRestart checks that the cache is used again when Redis is back.
func TestRestart(t *testing.T) {
	srv := programs.Redis(t)
	clock := kit.NewClock(time.Unix(1e9, 0))
	c := start(t, client(t, at(srv.Addr), ""), Options{Now: clock.Now})
	ctx := context.Background()
	store := func(value string) string {
		c.Put(ctx, "t", "k", []byte(value))
		settle(t, c)
		return string(c.Get(ctx, "t", []string{"k"})["k"])
	}
	if got := store("1"); got != "1" {
		t.Fatalf("got %q", got)
	}
	srv.Kill()
	for range failuresToOpen {
		if got := store("2"); got != "" {
			t.Errorf("got %q from a server that is stopped", got)
		}
	}
	srv.Start()
	if got := store("3"); got != "" || c.looked(circuitOpen) != 1 {
		t.Errorf("got %q within a second, %v look-ups counted as circuit_open, want 1", got, c.looked(circuitOpen))
	}
	clock.Advance(openFor)
	if got := store("4"); got != "4" {
		t.Errorf("got %q after a second", got)
	}
	if got := store("5"); got != "5" {
		t.Errorf("got %q", got)
	}
}

// TestCircuit checks that only consecutive failures open a circuit, and that one call in a
// second tries again.
func TestCircuit(t *testing.T) {
	clock := kit.NewClock(time.Unix(1e9, 0))
	c := &circuit{now: clock.Now}
	for i := range 20 {
		if !c.allow() || c.record(i%failuresToOpen == 0) {
			t.Fatalf("call %d: the circuit is open, though every third call succeeds", i)
		}
	}
	c.record(true)
	for i := range failuresToOpen {
		if opened := c.record(false); opened != (i == failuresToOpen-1) {
			t.Errorf("failure %d opened: %t", i, opened)
		}
	}
	for range 3 {
		if c.allow() {
			t.Error("a call is allowed at once")
		}
		clock.Advance(openFor)
		if !c.allow() || c.allow() {
			t.Error("not exactly one call is allowed after a second")
		}
		if c.record(false) {
			t.Error("an open circuit opened again")
		}
	}
	c.record(true)
	for range 2 {
		if !c.allow() {
			t.Error("calls are not allowed after a success")
		}
	}
}

// TestCallerCancels checks that a caller that does not wait ends its call, and does not
// count against the server.
func TestCallerCancels(t *testing.T) {
	c := start(t, client(t, at(fake(t, func(string) string { return "" })), ""), Options{})
	for range failuresToOpen + 1 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if got := c.Get(ctx, "t", []string{"k"}); len(got) != 0 {
			t.Errorf("got %q", got)
		}
		cancel()
	}
	if c.looked(canceled) != failuresToOpen+1 || c.looked(circuitOpen) != 0 {
		t.Errorf("%v canceled, %v circuit_open, want 4 and 0", c.looked(canceled), c.looked(circuitOpen))
	}
}

// TestQueueIsFull checks that the queue of values is bounded, in total and for each tenant, that
// Put does not wait, and that Close drops the queue.
func TestQueueIsFull(t *testing.T) {
	c := start(t, client(t, at(fake(t, func(string) string { return "" })), ""), Options{})
	fill := func(id tenant.ID, n, bytes int) {
		for i := range n {
			c.Put(context.Background(), id, fmt.Sprint(i), make([]byte, bytes))
		}
	}
	most := float64(queueValues / queueShare)
	fill("many", queueValues, 0)
	if got := c.put(tenantShare); got != queueValues-most {
		t.Errorf("%v values of the tenant with many were dropped, want %v", got, queueValues-most)
	}
	fill("large", 5, 4<<20)
	if got := c.put(tenantShare); got != queueValues-most+2 {
		t.Errorf("%v values were dropped, want %v", got, queueValues-most+2)
	}
	for _, id := range []tenant.ID{"b", "c", "d", "e"} {
		fill(id, 3, 5<<20)
	}
	if c.put(queueFull) == 0 || c.queue.size() > 64<<20 {
		t.Errorf("%v values were dropped because the queue was full, which has %v bytes", c.put(queueFull), c.queue.size())
	}
	c.Put(context.Background(), "f", "too large", make([]byte, 8<<20+1))
	if c.put(tooLarge) != 1 {
		t.Error("a value that is too large is not counted")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c.Put(context.Background(), "late", "k", nil)
	sum := 0.0
	for _, r := range []string{tenantShare, queueFull, tooLarge, closed} {
		sum += c.put(r)
	}
	if want := float64(queueValues + 5 + 12 + 1 + 1); sum != want || c.queue.size() != 0 || len(c.queue.byTenant) != 0 {
		t.Errorf("%v values were counted, want %v; the queue has %v bytes", sum, want, c.queue.size())
	}
}

// TestTimeLimits checks that look-ups and writes have the timeouts of the cache, even if the client
// has none.
func TestTimeLimits(t *testing.T) {
	r := goredis.NewClient(&goredis.Options{
		Addr: fake(t, func(string) string { return "" }), ReadTimeout: -1, WriteTimeout: -1, ContextTimeoutEnabled: true,
	})
	defer r.Close()
	c := start(t, r, Options{GetTimeout: 20 * time.Millisecond, PutTimeout: 20 * time.Millisecond})
	got := make(chan int, 1)
	go func() { got <- len(c.Get(context.Background(), "t", []string{"k"})) }()
	if n := kit.Receive(t, "the end of a look-up", got); n != 0 || c.looked(timeout) != 1 {
		t.Errorf("got %d values, %v timeouts", n, c.looked(timeout))
	}
	c.Put(context.Background(), "t", "k", nil)
	settle(t, c)
	if c.put(timeout) != 1 {
		t.Errorf("%v timeouts of writes, want 1", c.put(timeout))
	}
}
