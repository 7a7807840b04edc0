package control

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
)

// maxUses bounds the number of keys in memory whose last use is not written yet. Uses of further
// keys are not recorded.
const maxUses = 100_000

// uses holds the last uses of keys until they are written.
type uses struct {
	mu      sync.Mutex
	dirty   map[string]time.Time // to be written
	written map[string]time.Time // last use that was written; take removes old ones
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

// use is the last use of a key.
type use struct {
	id string
	at time.Time
}

// take returns the uses to write and removes them from `dirty`. It also removes the uses from
// `written` that are at least touchEvery old.
func (u *uses) take(now time.Time) []use {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]use, 0, len(u.dirty))
	for id, at := range u.dirty {
		list = append(list, use{id, at})
	}
	clear(u.dirty)
	for id, at := range u.written {
		if now.Sub(at) >= touchEvery {
			delete(u.written, id)
		}
	}
	return list
}

// wrote records that a use from take was written.
func (u *uses) wrote(w use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.written[w.id] = w.at
	if later, ok := u.dirty[w.id]; ok && later.Sub(w.at) < touchEvery {
		delete(u.dirty, w.id) // a use of a request during the write, too soon after w
	}
}

// keep puts a use that could not be written back into `dirty`, unless the key was used again or
// `dirty` is full.
func (u *uses) keep(w use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.dirty[w.id]; !ok && len(u.dirty) < maxUses {
		u.dirty[w.id] = w.at
	}
}

// flushUses writes the uses recorded by Touch. It keeps uses that it cannot write for the next
// call; that late write may overwrite a newer use that another gateway wrote in the meantime.
func (c *Control) flushUses(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	list := c.uses.take(c.moment())
	if len(list) == 0 {
		return
	}
	ms := make([]rows.RowMutation, 0, len(list))
	for _, w := range list {
		ms = append(ms,
			rows.RowMutation{Key: prefKeyIndex + w.id, Mutations: []rows.Mutation{set(cellUse, strconv.AppendInt(nil, w.at.UnixMilli(), 10))}})
	}
	var failed error
	n := 0
	errs := c.store.MutateRows(ctx, ms) // nil if all rows were written
	for i, w := range list {
		if errs == nil || errs[i] == nil {
			c.uses.wrote(w)
			continue
		}
		c.uses.keep(w)
		failed = errs[i]
		n++
	}
	if failed != nil {
		c.logger.Warn("failed to write the last use of API keys", "keys", n, "err", failed)
	}
}

// lastUse returns the time in a key's index row, or the zero time if no use was
// written.
func lastUse(r row) time.Time {
	ms, err := strconv.ParseInt(r.text(cellUse), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
