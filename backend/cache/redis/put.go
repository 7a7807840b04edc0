package redis

import (
	"context"

	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/tenant"
)

// batchValues is how many values one round trip writes.
const batchValues = 8

// Put implements cache.Cache. The value is written in the background. It is dropped if it is too
// large, if too many values are waiting, or after Close.
func (c *Cache) Put(_ context.Context, id tenant.ID, key string, value []byte) {
	result := tooLarge
	if len(value) <= c.o.MaxValueBytes {
		result = c.queue.add(item{id: id, key: key, value: value})
	}
	if result != "" {
		c.metrics.puts.WithLabelValues(result).Inc()
	}
}

// write writes queued values until ctx ends. There is one writer, so that the values of a
// key are written in the order in which they were put.
func (c *Cache) write(ctx context.Context) {
	for {
		items := c.queue.take(ctx, batchValues)
		if items == nil {
			return
		}
		c.writeBatch(ctx, items)
		c.queue.done(items)
	}
}

func (c *Cache) writeBatch(ctx context.Context, items []item) {
	if !c.writes.allow() {
		c.metrics.puts.WithLabelValues(circuitOpen).Add(float64(len(items)))
		return
	}
	limited, cancel := context.WithTimeout(ctx, c.o.PutTimeout)
	defer cancel()
	var commands []*goredis.StatusCmd
	err := c.pipeline(limited, func(p goredis.Pipeliner) {
		for i := range items {
			it := &items[i]
			name := prefix + c.o.Seal.Names(it.id, it.key)[0]
			commands = append(commands, p.Set(limited, name, c.o.Seal.Seal(it.id, it.key, it.value), c.o.TTL))
		}
	})
	if ctx.Err() == nil {
		c.record(c.writes, err)
	}
	for _, cmd := range commands {
		result := stored
		switch {
		case cmd.Err() != nil && ctx.Err() != nil:
			result = closed
		case cmd.Err() != nil:
			result = reasonOf(cmd.Err())
		case cmd.Val() != "OK": // the command did not run
			result = failed
		}
		c.metrics.puts.WithLabelValues(result).Inc()
	}
}
