package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

func tenantName(i int) tenant.ID { return tenant.ID(fmt.Sprintf("t%d", i)) }

// waitQueued returns when n requests are queued.
func waitQueued(t *testing.T, g *Gate, n int) {
	t.Helper()
	kit.Until(t, fmt.Sprintf("%d requests are queued", n), func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		have := 0
		for _, q := range g.queues {
			have += len(q.waiting)
		}
		return have == n
	})
}

func TestFairGateServesInTurn(t *testing.T) {
	g := NewGate(1, 100, time.Minute)
	ctx := context.Background()
	if err := g.Enter(ctx, "first"); err != nil {
		t.Fatal(err)
	}
	served := make(chan tenant.ID)
	queued := 0
	wait := func(id tenant.ID) {
		go func() {
			if err := g.Enter(ctx, id); err != nil {
				t.Error(err)
			}
			served <- id
		}()
		queued++
		waitQueued(t, g, queued)
	}
	for range 10 {
		wait("loud")
	}
	wait("quiet")
	wait("calm")
	var order []string
	for range queued {
		g.Leave()
		order = append(order, string(<-served))
	}
	g.Leave()
	got := strings.Join(order[:4], " ")
	if got != "loud quiet calm loud" {
		t.Errorf("order of the first requests = %s, want loud quiet calm loud", got)
	}
	if g.Load() != 0 || len(g.queues) != 0 || len(g.turns) != 0 {
		t.Errorf("at the end: %d requests in progress, %d queues, %d turns, want none", g.Load(), len(g.queues), len(g.turns))
	}
}

func TestFairGateRejects(t *testing.T) {
	g := NewGate(1, 1, time.Minute)
	if err := g.Enter(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error)
	go func() { result <- g.Enter(ctx, "a") }()
	waitQueued(t, g, 1)
	if err := g.Enter(context.Background(), "a"); !errors.Is(err, ErrBusy) {
		t.Errorf("queue full: %v", err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	g.Leave()
	if g.Load() != 0 || len(g.queues) != 0 {
		t.Errorf("%d requests and %d queues are left at the end, want none", g.Load(), len(g.queues))
	}
}
