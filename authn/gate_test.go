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

// gateWorld has a gate that allows one check at a time, and one check is running. It records the
// requests that pass the gate.
type gateWorld struct {
	g      *gate
	passed []string // not guarded: one waiter continues at a time
	busy   map[string]int
}

func newGateWorld(t *testing.T) *gateWorld {
	w := &gateWorld{g: newGate(1), busy: map[string]int{}}
	if err := w.g.enter(t.Context(), netip.Addr{}, false, 0); err != nil {
		t.Fatal(err)
	}
	return w
}

// wait adds a request, and returns when it is waiting or was rejected.
func (w *gateWorld) wait(ctx context.Context, from string, known bool, failures float64) {
	done := make(chan error, 1)
	go func() {
		err := w.g.enter(ctx, netip.MustParseAddr(from), known, failures)
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

// drain lets all requests pass, one after the other.
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
		if w.g.free != 1 || len(w.g.networks) != 0 {
			t.Errorf("%d free, networks %v", w.g.free, w.g.networks)
		}
	})
}

// TestGateRejectsMostWaiting checks that requests of the address with the most waiting
// requests are rejected if too many wait.
func TestGateRejectsMostWaiting(t *testing.T) {
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
			t.Errorf("rejected %v, %d wait", w.busy, w.g.load())
		}
		w.drain()
		if !slices.Contains(w.passed[:4], "198.51.100.1") || !slices.Contains(w.passed[:4], "192.0.2.2") {
			t.Errorf("other addresses waited too long: %q", w.passed[:4])
		}
		if n := len(slices.DeleteFunc(w.passed, func(s string) bool { return s != "192.0.2.1 known" })); n != 10 {
			t.Errorf("%d of 10 requests with known credentials passed", n)
		}
	})
}

// TestGateKnownAndOthers checks that an address's requests with known credentials go first, but that
// its other requests also pass, even if requests with known credentials fill the queue.
func TestGateKnownAndOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		const addr = "192.0.2.1"
		for range 2 {
			w.wait(t.Context(), addr, false, 0)
		}
		for range 8 {
			w.wait(t.Context(), addr, true, 0)
		}
		w.drain()
		const known = addr + " known"
		if want := []string{known, known, known, addr, known, known, known, addr, known, known}; !slices.Equal(w.passed, want) {
			t.Errorf("passed %q, want %q", w.passed, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		for range maxWaiting {
			w.wait(t.Context(), "192.0.2.1", true, 0)
		}
		w.wait(t.Context(), "192.0.2.1", false, 0)
		for range 100 {
			w.wait(t.Context(), "192.0.2.1", true, 0)
		}
		w.drain()
		if i := slices.Index(w.passed, "192.0.2.1"); i < 0 || i > knownTurns || len(w.passed) != maxWaiting {
			t.Errorf("the other request was number %d of %d that passed", i, len(w.passed))
		}
	})
}

// TestGateRejectsMostFailures checks that, among networks with one waiting request each,
// one with the most failures is rejected.
func TestGateRejectsMostFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newGateWorld(t)
		for i := range maxWaiting {
			w.wait(t.Context(), fmt.Sprintf("10.%d.%d.1", i/200, i%200), false, 7)
		}
		w.wait(t.Context(), "192.0.2.1", false, 0)
		w.drain()
		if len(w.busy) != 1 || w.busy["192.0.2.1"] != 0 || !slices.Contains(w.passed, "192.0.2.1") {
			t.Errorf("rejected %v", w.busy)
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
			t.Errorf("%d requests wait, want 1", w.g.load())
		}
		time.Sleep(maxWait)
		synctest.Wait()
		if w.g.load() != 0 || w.busy["192.0.2.2"] != 1 || len(w.passed) != 0 {
			t.Errorf("%d requests wait, rejected %v, passed %v", w.g.load(), w.busy, w.passed)
		}
		w.g.leave()
		if w.g.free != 1 {
			t.Errorf("%d checks are free, want 1", w.g.free)
		}
	})
}
