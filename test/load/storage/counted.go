package main

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
)

// counts contains the calls of both stores. A round is a call that began while no
// other was in flight: rounds are the calls that had to wait for another one.
type counts struct {
	Rounds                        int
	RowCalls, RowCells            int
	RowBytes                      int64 // bytes read
	Gets, Puts, Stats, Deletes    int
	GotBytes, PutBytes, PutL0Size int64
	PutsL0                        int
}

// counterOf counts the calls of both stores and delays them.
type counterOf struct {
	mu       sync.Mutex
	c        counts
	inflight int
	rowDelay time.Duration
	objDelay time.Duration
}

// take returns the counts and resets them.
func (c *counterOf) take() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.c
	c.c = counts{}
	return out
}

func (c *counterOf) delay(row, object time.Duration) { c.rowDelay, c.objDelay = row, object }

// call counts one call and returns a function that ends it.
func (c *counterOf) call(delay time.Duration, count func(*counts)) func() {
	c.mu.Lock()
	if c.inflight == 0 {
		c.c.Rounds++
	}
	c.inflight++
	count(&c.c)
	c.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	return func() {
		c.mu.Lock()
		c.inflight--
		c.mu.Unlock()
	}
}

func (c *counterOf) add(count func(*counts)) {
	c.mu.Lock()
	count(&c.c)
	c.mu.Unlock()
}

// countedRows is a rows.Store whose calls are counted.
type countedRows struct {
	rows.Store
	c *counterOf
}

func (r countedRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	defer r.c.call(r.c.rowDelay, func(c *counts) { c.RowCalls++ })()
	return r.Store.ReadRows(ctx, ranges, f, func(row rows.Row) bool {
		n, size := len(row.Cells), int64(0)
		for i := range row.Cells {
			size += int64(len(row.Cells[i].Qualifier) + len(row.Cells[i].Value))
		}
		r.c.add(func(c *counts) { c.RowCells += n; c.RowBytes += size })
		return visit(row)
	})
}

func (r countedRows) Mutate(ctx context.Context, m rows.RowMutation) error {
	defer r.c.call(r.c.rowDelay, func(c *counts) { c.RowCalls++ })()
	return r.Store.Mutate(ctx, m)
}

func (r countedRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	defer r.c.call(r.c.rowDelay, func(c *counts) { c.RowCalls++ })()
	return r.Store.MutateRows(ctx, ms)
}

func (r countedRows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	defer r.c.call(r.c.rowDelay, func(c *counts) { c.RowCalls++ })()
	return r.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

// countedObjects is an objects.Store whose calls are counted.
type countedObjects struct {
	objects.Store
	c *counterOf
}

func (o countedObjects) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	defer o.c.call(o.c.objDelay, func(c *counts) { c.Puts++ })()
	out, err := o.Store.Put(ctx, name, path, crc)
	o.c.add(func(c *counts) {
		c.PutBytes += out.Size
		if name[:2] == "l0" {
			c.PutsL0++
			c.PutL0Size += out.Size
		}
	})
	return out, err
}

func (o countedObjects) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	defer o.c.call(o.c.objDelay, func(c *counts) { c.Gets++; c.GotBytes += int64(n) })()
	return o.Store.Get(ctx, name, off, n)
}

func (o countedObjects) Stat(ctx context.Context, name string) (objects.Object, error) {
	defer o.c.call(o.c.objDelay, func(c *counts) { c.Stats++ })()
	return o.Store.Stat(ctx, name)
}

func (o countedObjects) Delete(ctx context.Context, name string) error {
	defer o.c.call(o.c.objDelay, func(c *counts) { c.Deletes++ })()
	return o.Store.Delete(ctx, name)
}
