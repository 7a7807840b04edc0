package control

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
)

// maxUses bounds the number of keys whose use is held in memory between flushes. Uses of
// further keys are not recorded.
const maxUses = 100_000

// uses holds the times when keys were used until they are written.
type uses struct {
	mu      sync.Mutex
	dirty   map[string]time.Time // to be written
	written map[string]time.Time // written less than touchEvery ago
}

func newUses() uses {
	return uses{dirty: map[string]time.Time{}, written: map[string]time.Time{}}
}

// Touch records that a key was used. It never waits for the store: the time is written in
// the background, at most once per minute for each key.
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

// flushUses writes the uses recorded by Touch. On an error they are lost.
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
		c.logger.Warn("failed to write the last use of API keys", "keys", n, "err", failed)
	}
}

// lastUse returns the time in a key's index row, or the zero time if the key was never
// used.
func lastUse(r row) time.Time {
	ms, err := strconv.ParseInt(r.text(cellUse), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
