// Package counted counts the calls of the row and the object store, and delays them.
package counted

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
)

// Counts contains the calls of both stores. Rounds counts only the calls that began while
// no other was in flight, as if calls that overlap were one call.
type Counts struct {
	Rounds                        int
	RowCalls, RowCells            int
	RowBytes                      int64 // bytes read
	Gets, Puts, Stats, Deletes    int
	GotBytes, PutBytes, PutL0Size int64
	PutsL0                        int
}

// Counter counts the calls of both stores and delays them.
type Counter struct {
	mu       sync.Mutex
	c        Counts
	inflight int
	rowDelay time.Duration
	objDelay time.Duration
}

// Take returns the counts and resets them.
func (c *Counter) Take() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.c
	c.c = Counts{}
	return out
}

// Delay makes each call take longer.
func (c *Counter) Delay(row, object time.Duration) { c.rowDelay, c.objDelay = row, object }

// call counts one call and returns a function that ends it.
func (c *Counter) call(delay time.Duration, count func(*Counts)) func() {
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

func (c *Counter) add(count func(*Counts)) {
	c.mu.Lock()
	count(&c.c)
	c.mu.Unlock()
}

// Rows is a rows.Store whose calls are counted, except DeletePrefix.
type Rows struct {
	rows.Store
	Counter *Counter
}

// ReadRows implements rows.Store.
func (r Rows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	defer r.Counter.call(r.Counter.rowDelay, func(c *Counts) { c.RowCalls++ })()
	return r.Store.ReadRows(ctx, ranges, f, func(row rows.Row) bool {
		n, size := len(row.Cells), int64(0)
		for i := range row.Cells {
			size += int64(len(row.Cells[i].Qualifier) + len(row.Cells[i].Value))
		}
		r.Counter.add(func(c *Counts) { c.RowCells += n; c.RowBytes += size })
		return visit(row)
	})
}

// Mutate implements rows.Store.
func (r Rows) Mutate(ctx context.Context, m rows.RowMutation) error {
	defer r.Counter.call(r.Counter.rowDelay, func(c *Counts) { c.RowCalls++ })()
	return r.Store.Mutate(ctx, m)
}

// MutateRows implements rows.Store.
func (r Rows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	defer r.Counter.call(r.Counter.rowDelay, func(c *Counts) { c.RowCalls++ })()
	return r.Store.MutateRows(ctx, ms)
}

// CheckAndMutate implements rows.Store.
func (r Rows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	defer r.Counter.call(r.Counter.rowDelay, func(c *Counts) { c.RowCalls++ })()
	return r.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

// Objects is an objects.Store whose calls are counted, except List.
type Objects struct {
	objects.Store
	Counter *Counter
}

// Put implements objects.Store.
func (o Objects) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	defer o.Counter.call(o.Counter.objDelay, func(c *Counts) { c.Puts++ })()
	out, err := o.Store.Put(ctx, name, path, crc)
	o.Counter.add(func(c *Counts) {
		c.PutBytes += out.Size
		if name[:2] == "l0" {
			c.PutsL0++
			c.PutL0Size += out.Size
		}
	})
	return out, err
}

// Get implements objects.Store.
func (o Objects) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	defer o.Counter.call(o.Counter.objDelay, func(c *Counts) { c.Gets++; c.GotBytes += int64(n) })()
	return o.Store.Get(ctx, name, off, n)
}

// Stat implements objects.Store.
func (o Objects) Stat(ctx context.Context, name string) (objects.Object, error) {
	defer o.Counter.call(o.Counter.objDelay, func(c *Counts) { c.Stats++ })()
	return o.Store.Stat(ctx, name)
}

// Delete implements objects.Store.
func (o Objects) Delete(ctx context.Context, name string) error {
	defer o.Counter.call(o.Counter.objDelay, func(c *Counts) { c.Deletes++ })()
	return o.Store.Delete(ctx, name)
}
