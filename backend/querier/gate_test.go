package querier

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

func (g *Gate) state(id tenant.ID) (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.tenants[id]; p != nil {
		return p.running, len(p.waiting)
	}
	return 0, 0
}

func enter(t *testing.T, g *Gate, id tenant.ID, lim limits.Limits) func() {
	t.Helper()
	leave, err := g.Enter(context.Background(), id, &lim)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// TestGateWaits checks that reads beyond the limit wait in FIFO order, and that
// reads beyond the queue are rejected.
func TestGateWaits(t *testing.T) {
	g := NewGate(nil)
	lim := limits.Limits{MaxConcurrentQueries: 2, MaxQueuedQueries: 3}
	leave := []func(){enter(t, g, "a", lim), enter(t, g, "a", lim)}
	var mu sync.Mutex
	var order []int
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			l, err := g.Enter(context.Background(), "a", &lim)
			if err != nil {
				t.Errorf("read %d: Enter = %v", i, err)
				return
			}
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
			l()
		})
		kit.Until(t, "the read waits", func() bool { _, n := g.state("a"); return n == i+1 })
	}
	var full *QueueFullError
	if _, err := g.Enter(context.Background(), "a", &lim); !errors.As(err, &full) || full.Running != 2 || full.Waiting != 3 {
		t.Errorf("read with a full queue: error = %v", err)
	}
	enter(t, g, "b", lim)() // another tenant does not wait
	leave[0]()
	all.Wait()
	leave[1]()
	if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
		t.Errorf("reads ran in the order %v, want FIFO", order)
	}
	if len(g.tenants) != 0 {
		t.Errorf("gate still has tenants: %v", g.tenants)
	}
}

// TestGateGivesUp checks that a read whose context ends leaves the queue with
// the context's cause as error.
func TestGateGivesUp(t *testing.T) {
	g := NewGate(nil)
	lim := limits.Limits{MaxConcurrentQueries: 1, MaxQueuedQueries: 1}
	leave := enter(t, g, "a", lim)
	cause := errors.New("the request timed out")
	for range 3 {
		ctx, cancel := context.WithCancelCause(context.Background())
		failed := make(chan error)
		go func() {
			_, err := g.Enter(ctx, "a", &lim)
			failed <- err
		}()
		kit.Until(t, "the read waits", func() bool { _, n := g.state("a"); return n == 1 })
		cancel(cause)
		if err := <-failed; !errors.Is(err, cause) {
			t.Fatalf("Enter = %v", err)
		}
	}
	leave()
	if len(g.tenants) != 0 {
		t.Errorf("gate still has tenants: %v", g.tenants)
	}
}

// TestGateNoLimit checks that without a limit no read waits, and that the gate
// is empty afterwards.
func TestGateNoLimit(t *testing.T) {
	g := NewGate(nil)
	var leave []func()
	for range 100 {
		leave = append(leave, enter(t, g, "a", limits.Limits{}))
	}
	for _, l := range leave {
		l()
	}
	if len(g.tenants) != 0 {
		t.Errorf("gate still has tenants: %v", g.tenants)
	}
}

// TestGateOtherLimit checks that a limit that changes while reads wait applies
// from the next read on, even if the queue is never empty.
func TestGateOtherLimit(t *testing.T) {
	g := NewGate(nil)
	var all sync.WaitGroup
	goOn := make(chan struct{})
	inside := func() int { n, _ := g.state("a"); return n }
	waiting := func() int { _, n := g.state("a"); return n }
	read := func(lim limits.Limits) {
		all.Go(func() {
			leave, err := g.Enter(context.Background(), "a", &lim)
			if err != nil {
				t.Errorf("Enter = %v", err)
				return
			}
			<-goOn
			leave()
		})
	}
	lim := limits.Limits{MaxConcurrentQueries: 2, MaxQueuedQueries: 20}
	for i := range 8 {
		read(lim)
		kit.Until(t, "the read waits", func() bool { return inside()+waiting() == i+1 })
	}
	lim.MaxConcurrentQueries = 5 // raised
	read(lim)
	kit.Until(t, "five reads run", func() bool { return inside() == 5 && waiting() == 4 })
	lim.MaxConcurrentQueries = 1 // lowered
	read(lim)
	kit.Until(t, "the read waits", func() bool { return waiting() == 5 })
	for left := 4; left >= 1; left-- {
		goOn <- struct{}{}
		kit.Until(t, "one read has left", func() bool { return inside() == left })
	}
	if n := waiting(); n != 5 {
		t.Errorf("%d reads wait after the limit was lowered, want 5", n)
	}
	lim.MaxConcurrentQueries = 0 // none
	read(lim)
	kit.Until(t, "all reads run", func() bool { return waiting() == 0 && inside() == 7 })
	close(goOn)
	all.Wait()
	if len(g.tenants) != 0 {
		t.Errorf("gate still has tenants: %v", g.tenants)
	}
}

// TestGateRace checks that slots are neither lost nor given twice if reads give up just when they
// get a slot.
func TestGateRace(t *testing.T) {
	g := NewGate(nil)
	lim := limits.Limits{MaxConcurrentQueries: 3, MaxQueuedQueries: 1000}
	var mu sync.Mutex
	inside := 0
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%7)*100*time.Microsecond)
			defer cancel()
			leave, err := g.Enter(ctx, "a", &lim)
			if err != nil {
				return
			}
			mu.Lock()
			if inside++; inside > 3 {
				t.Errorf("%d reads run concurrently, more than the limit", inside)
			}
			mu.Unlock()
			time.Sleep(50 * time.Microsecond)
			mu.Lock()
			inside--
			mu.Unlock()
			leave()
		})
	}
	all.Wait()
	if len(g.tenants) != 0 {
		t.Errorf("gate still has tenants: %v", g.tenants)
	}
}

// TestGateTurnTooLate checks that a read whose context ends just when it gets a slot either returns
// an error or takes the slot and releases it.
func TestGateTurnTooLate(t *testing.T) {
	lim := limits.Limits{MaxConcurrentQueries: 1, MaxQueuedQueries: 1}
	late := 0
	for range 200 {
		g := NewGate(nil)
		leave := enter(t, g, "a", lim)
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() {
			l, err := g.Enter(ctx, "a", &lim)
			if err == nil {
				l()
			}
			result <- err
		}()
		kit.Until(t, "the read waits", func() bool { _, n := g.state("a"); return n == 1 })
		cancel() // Enter may see the end of the context or the slot first
		leave()
		if err := kit.Receive(t, "the result of Enter", result); err != nil {
			late++
		}
		if len(g.tenants) != 0 {
			t.Fatal("the slot was never released")
		}
	}
	if late == 0 {
		t.Error("no context ended in time")
	}
}
