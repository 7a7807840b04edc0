package control

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
)

// maxUses bounds the keys whose use is remembered between flushes.
const maxUses = 100_000

// uses remembers when keys were used, until that is written.
type uses struct {
	mu      sync.Mutex
	dirty   map[string]time.Time // to be written
	written map[string]time.Time // written less than touchEvery ago
}

func newUses() uses {
	return uses{dirty: map[string]time.Time{}, written: map[string]time.Time{}}
}

// Touch notes that a key was used. It never blocks on the store: the time is
// written in the background, at most once a minute for each key.
func (c *Control) Touch(keyID string) {
	now := c.moment()
	c.uses.mu.Lock()
	defer c.uses.mu.Unlock()
	if now.Sub(c.uses.written[keyID]) < touchEvery {
		return
	}
	if _, known := c.uses.dirty[keyID]; !known && len(c.uses.dirty) >= maxUses {
		return
	}
	c.uses.dirty[keyID] = now
}

// flushUses writes what Touch noted. A failure loses last uses, no more.
func (c *Control) flushUses(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	now := c.moment()
	c.uses.mu.Lock()
	var ms []rows.RowMutation
	for id, at := range c.uses.dirty {
		c.uses.written[id] = at
		ms = append(ms,
			rows.RowMutation{Key: prefKeyIndex + id, Mutations: []rows.Mutation{set(cellUse, strconv.AppendInt(nil, at.UnixMilli(), 10))}})
	}
	clear(c.uses.dirty)
	for id, at := range c.uses.written {
		if now.Sub(at) >= touchEvery {
			delete(c.uses.written, id)
		}
	}
	c.uses.mu.Unlock()
	if len(ms) == 0 {
		return
	}
	var failed error
	n := 0
	for _, err := range c.store.MutateRows(ctx, ms) {
		if err != nil {
			failed = err
			n++
		}
	}
	if failed != nil {
		c.logger.Warn("last use of API keys was not written", "keys", n, "err", fmt.Errorf("write last uses: %w", failed))
	}
}

// lastUse reads the time from a key's index row; zero if it was never used.
func lastUse(r row) time.Time {
	ms, err := strconv.ParseInt(r.text(cellUse), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
