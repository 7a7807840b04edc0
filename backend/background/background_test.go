package background

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestGroup: all of a group go on until it is stopped, and have ended when Stop
// returns.
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
			t.Fatalf("%d run, context %v", n, g.Context().Err())
		}
		g.Cancel()
		synctest.Wait()
		if n := running.Load(); n != 3 || g.Context().Err() == nil {
			t.Fatalf("after Cancel %d run, context %v", n, g.Context().Err())
		}
		var stopped atomic.Bool
		go func() {
			g.Stop()
			if n := running.Load(); n != 0 {
				t.Errorf("Stop returned while %d run", n)
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
			t.Fatal("Stop does not return")
		}
		g.Stop() // again
		New().Stop()
	})
}

// TestAfterCancel: what is begun too late finds its context ended.
func TestAfterCancel(t *testing.T) {
	g := New()
	g.Cancel()
	ended := false
	g.Go(func(ctx context.Context) { ended = ctx.Err() != nil })
	g.Wait()
	if !ended {
		t.Error("the context goes on after Cancel")
	}
}
