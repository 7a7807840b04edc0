package background

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestGroup checks that Cancel cancels the context of the goroutines of a group, and
// that Stop waits for them.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		release := make(chan struct{})
		var running atomic.Int32
		for range 3 {
			running.Add(1)
			g.Go(func(ctx context.Context) {
				defer running.Add(-1)
				<-ctx.Done()
				<-release
			})
		}
		synctest.Wait()
		if n := running.Load(); n != 3 || g.Context().Err() != nil {
			t.Fatalf("%d goroutines run, context error %v", n, g.Context().Err())
		}
		g.Cancel()
		synctest.Wait()
		if n := running.Load(); n != 3 || g.Context().Err() == nil {
			t.Fatalf("after Cancel: %d goroutines run, context error %v", n, g.Context().Err())
		}
		var stopped atomic.Bool
		go func() {
			g.Stop()
			if n := running.Load(); n != 0 {
				t.Errorf("Stop returned while %d goroutines run", n)
			}
			stopped.Store(true)
		}()
		synctest.Wait()
		if stopped.Load() {
			t.Fatal("Stop did not wait")
		}
		close(release)
		synctest.Wait()
		if !stopped.Load() {
			t.Fatal("Stop did not return")
		}
		g.Stop() // a second call
		New().Stop()
	})
}

// TestAfterCancel checks that a goroutine started after Cancel has a canceled
// context.
func TestAfterCancel(t *testing.T) {
	g := New()
	g.Cancel()
	ended := false
	g.Go(func(ctx context.Context) { ended = ctx.Err() != nil })
	g.Wait()
	if !ended {
		t.Error("the context is not canceled after Cancel")
	}
}
