package shares

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// fenceLife is the time for which a Fence uses the number of a share, measured from the start of its read.
const fenceLife = 2 * time.Second

// Fence checks that writes of recorded samples come from the current holder of their share.
// It is safe for concurrent use.
type Fence struct {
	store   Reader
	running func() time.Duration

	mu     sync.Mutex
	shares map[int]*number
}

// Reader reads the row of a share. index.Shares implements it.
type Reader interface {
	Read(ctx context.Context, share int) (schema.Share, error)
}

// number is the number of a share as it was last read.
type number struct {
	mu    sync.Mutex
	known bool
	value uint64
	read  time.Duration // time at which the read began
}

// NewFence returns a Fence over the rows of shares. running is a monotonic clock.
func NewFence(store Reader, running func() time.Duration) *Fence {
	return &Fence{store: store, running: running, shares: map[int]*number{}}
}

// Check returns an error that wraps series.ErrFenced if n is not the current number of a share. It
// reads the row if it was not read in the last two seconds, or if n is newer than the number that
// was read.
func (f *Fence) Check(ctx context.Context, share int, n uint64) error {
	if share < 0 || share > 1<<16-1 {
		return fmt.Errorf("%w: share %d is outside 0 to 65535", series.ErrFenced, share)
	}
	f.mu.Lock()
	c := f.shares[share]
	if c == nil {
		c = &number{}
		f.shares[share] = c
	}
	f.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := f.running(); !c.known || now-c.read > fenceLife || n > c.value {
		s, err := f.store.Read(ctx, share)
		if err != nil {
			return fmt.Errorf("check the holder of a share: %w", err)
		}
		c.known, c.value, c.read = true, s.Number, now
	}
	if n != c.value {
		return fmt.Errorf("%w: the write has fence number %d for share %d, whose current fence number is %d", series.ErrFenced, n, share, c.value)
	}
	return nil
}
