package memory

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/palliumhq/pallium/test/kit"
)

// TestWatch checks that the read that holds most is ended when the live heap is
// close to the limit, and not because of garbage.
func TestWatch(t *testing.T) {
	const limit = 1000 * mb
	tests := []struct {
		name string
		use  Usage
		ends bool
	}{
		{"plenty", Usage{Live: 100 * mb, Total: 200 * mb}, false},
		{"mostly garbage", Usage{Live: 300 * mb, Total: 990 * mb}, false},
		{"nearly full", Usage{Live: 860 * mb, Total: 990 * mb}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAccount(limit, nil)
			h := a.Begin(Request{Tenant: "a"})
			defer h.Close()
			if err := h.Take(100 * mb); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			ended, looks := make(chan error, 1), atomic.Int32{}
			h.OnEnd(func(cause error) { ended <- cause })
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.Watch(ctx, limit, func() Usage {
					if looks.Add(1) == 3 && !tt.ends {
						cancel()
					}
					return tt.use
				}, slog.New(slog.DiscardHandler))
			}()
			if tt.ends {
				if cause := kit.Receive(t, "a read is ended", ended); !errors.Is(cause, ErrEnded) {
					t.Errorf("cause %v, want ErrEnded", cause)
				}
				cancel()
			}
			kit.Receive(t, "Watch returned", done)
			if len(ended) > 0 {
				t.Error("a read was ended")
			}
		})
	}
}

// TestWatchWaits checks that after Watch ended a read, it ends another one only
// after the garbage collector could free the memory of the first.
func TestWatchWaits(t *testing.T) {
	const limit = 1000 * mb
	a := NewAccount(limit, nil)
	ended, cycles, looks := make(chan int, 2), atomic.Int64{}, atomic.Int32{}
	for i := range 2 {
		h := a.Begin(Request{Tenant: "a"})
		defer h.Close()
		if err := h.Take(int64(200-50*i) * mb); err != nil {
			t.Fatal(err)
		}
		h.OnEnd(func(error) { ended <- i; h.Close() })
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Watch(ctx, limit, func() Usage {
			looks.Add(1)
			return Usage{Live: 900 * mb, Total: 990 * mb, Cycles: cycles.Load()}
		}, slog.New(slog.DiscardHandler))
	}()
	if first := kit.Receive(t, "a read is ended", ended); first != 0 {
		t.Errorf("read %d was ended first", first)
	}
	before := looks.Load()
	kit.Until(t, "Watch read the usage again", func() bool { return looks.Load() >= before+2 })
	if len(ended) > 0 {
		t.Error("another read was ended before the collector ran")
	}
	cycles.Store(endCycles)
	kit.Receive(t, "the other read is ended", ended)
	cancel()
	kit.Receive(t, "the watch ends", done)
}

// TestReadUsage checks that the runtime's metrics are read.
func TestReadUsage(t *testing.T) {
	if u := ReadUsage(); u.Total <= 0 || u.Live < 0 || u.Live > u.Total {
		t.Errorf("ReadUsage = %+v", u)
	}
}
