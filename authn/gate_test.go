package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// gateWorld is a gate with one place, which is taken, and notes who passes it.
type gateWorld struct {
	g      *gate
	passed []string // guarded by the bubble's order: one at a time is told
	busy   map[string]int
}

func newGateWorld(t *testing.T) *gateWorld {
	w := &gateWorld{g: newGate(1), busy: map[string]int{}}
	if err := w.g.enter(t.Context(), netip.Addr{}, false, 0); err != nil {
		t.Fatal(err)
	}
	return w
}

// wait has one more wait, and returns when it does or was turned away.
func (w *gateWorld) wait(ctx context.Context, from string, known bool, faults float64) {
	done := make(chan error, 1)
	go func() {
		err := w.g.enter(ctx, netip.MustParseAddr(from), known, faults)
		if err == nil {
			if known {
				from += " known"
			}
			w.passed = append(w.passed, from)
		}
		if errors.Is(err, errBusy) {
			w.busy[from]++
		}
		done <- err
	}()
	synctest.Wait()
}

// drain lets all pass, one after the other.
func (w *gateWorld) drain() {
	for w.g.load() > 0 {
		w.g.leave()
		synctest.Wait()
	}
	w.g.leave()
}

func TestGateTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		for range 3 {
			w.wait(t.Context(), "192.0.2.1", false, 0)
		}
		w.wait(t.Context(), "192.0.2.1", true, 0)
		w.wait(t.Context(), "192.0.2.2", false, 0)
		w.wait(t.Context(), "198.51.100.1", false, 0)
		w.drain()
		want := []string{"192.0.2.1 known", "198.51.100.1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.1"}
		if !slices.Equal(w.passed, want) {
			t.Errorf("passed %q, want %q", w.passed, want)
		}
		if w.g.free != 1 || len(w.g.crowds) != 0 {
			t.Errorf("%d free, crowds %v", w.g.free, w.g.crowds)
		}
	})
}

// TestGateTurnsAwayTheGreedy: when too many wait, those go who have most waiting.
func TestGateTurnsAwayTheGreedy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		for range 10 {
			w.wait(t.Context(), "192.0.2.1", true, 0)
		}
		for range maxWaiting + 100 {
			w.wait(t.Context(), "192.0.2.1", false, 0)
		}
		w.wait(t.Context(), "192.0.2.2", false, 0)
		w.wait(t.Context(), "198.51.100.1", false, 0)
		if w.busy["192.0.2.1"] != 112 || len(w.busy) != 1 || w.g.load() != maxWaiting {
			t.Errorf("turned away %v, %d wait", w.busy, w.g.load())
		}
		w.drain()
		if !slices.Contains(w.passed[:4], "198.51.100.1") || !slices.Contains(w.passed[:4], "192.0.2.2") {
			t.Errorf("the others waited for too long: %q", w.passed[:4])
		}
		if n := len(slices.DeleteFunc(w.passed, func(s string) bool { return s != "192.0.2.1 known" })); n != 10 {
			t.Errorf("%d of 10 known ones passed", n)
		}
	})
}

// TestGateTurnsAwayTheFaulty: among networks with one waiter each, the one with
// most failures goes.
func TestGateTurnsAwayTheFaulty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		for i := range maxWaiting {
			w.wait(t.Context(), fmt.Sprintf("10.%d.%d.1", i/200, i%200), false, 7)
		}
		w.wait(t.Context(), "192.0.2.1", false, 0)
		w.drain()
		if len(w.busy) != 1 || w.busy["192.0.2.1"] != 0 || !slices.Contains(w.passed, "192.0.2.1") {
			t.Errorf("turned away %v", w.busy)
		}
	})
}

func TestGateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.wait(ctx, "192.0.2.1", false, 0)
		w.wait(t.Context(), "192.0.2.2", false, 0)
		cancel()
		synctest.Wait()
		if w.g.load() != 1 {
			t.Errorf("%d wait", w.g.load())
		}
		time.Sleep(maxWait)
		synctest.Wait()
		if w.g.load() != 0 || w.busy["192.0.2.2"] != 1 || len(w.passed) != 0 {
			t.Errorf("%d wait, turned away %v, passed %v", w.g.load(), w.busy, w.passed)
		}
		w.g.leave()
		if w.g.free != 1 {
			t.Errorf("%d places free", w.g.free)
		}
	})
}
