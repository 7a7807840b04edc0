package dispatch

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// TestHold checks that a read holds a slot, which evaluations wait for, until it is released.
func TestHold(t *testing.T) {
	w := newWorld(t)
	w.slot("a", ok)
	release, err := w.d.Hold(t.Context(), "acme", false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := w.d.Hold(ctx, "acme", false)
		waiting <- err
	}()
	done := make(chan error)
	go func() { done <- w.exec(t.Context(), "x").Err }()
	w.until(func() bool { return w.waiting() == 2 })
	select {
	case err := <-done:
		t.Errorf("an evaluation ran while a read held the only slot: %v", err)
	case err := <-waiting:
		t.Errorf("two reads hold the only slot: %v", err)
	default:
	}
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a read whose client left", err)
	}
	release()
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestHoldEnds checks that a slot that ends during a read is not held any more, and that the
// frontend can drain.
func TestHoldEnds(t *testing.T) {
	w := newWorld(t)
	s := w.slot("a", ok)
	release, err := w.d.Hold(t.Context(), "acme", false)
	if err != nil {
		t.Fatal(err)
	}
	close(s.leaving)
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	release()
	w.slot("b", ok)
	if release, err = w.d.Hold(t.Context(), "acme", false); err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := w.d.Hold(t.Context(), "acme", false)
		waiting <- err
	}()
	w.until(func() bool { return w.waiting() == 1 })
	w.d.Drain()
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	select {
	case err := <-waiting:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a read waits for a slot of a frontend that drains")
	}
	<-w.d.Draining()
	release()
}

// TestHoldCanceledAtOnce checks that no slot stays held if clients leave at any moment.
func TestHoldCanceledAtOnce(t *testing.T) {
	w := newWorld(t)
	w.slot("a", ok)
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if release, err := w.d.Hold(ctx, "acme", false); err == nil {
			release()
		}
	}
	if res := w.exec(t.Context(), "x"); res.Err != nil {
		t.Error(res.Err)
	}
}

// TestHoldWithoutQuerier checks that a read is delayed by five seconds at most if no querier is
// connected: another process performs it.
func TestHoldWithoutQuerier(t *testing.T) {
	w := newWorld(t)
	gone := w.slot("q", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) { return answer(1) })
	close(gone.leaving)
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	done := make(chan error)
	go func() {
		release, err := w.d.Hold(t.Context(), "acme", false)
		if err == nil {
			release()
		}
		done <- err
	}()
	w.timer <- time.Time{} // too early
	w.mu.Lock()
	w.now = w.now.Add(noQuerierWait)
	w.mu.Unlock()
	select {
	case w.timer <- time.Time{}:
		if err := <-done; err != nil {
			t.Error(err)
		}
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	}
}
