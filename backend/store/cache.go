package store

import (
	"container/list"
	"sync"
)

// cache keeps values that never change under their keys, the ones used last,
// within a budget of bytes.
type cache[K comparable, V any] struct {
	max  int64
	size func(V) int64

	mu    sync.Mutex
	bytes int64
	byKey map[K]*list.Element
	order list.List // of *cached[K, V], used last in front
}

type cached[K comparable, V any] struct {
	key   K
	value V
}

func newCache[K comparable, V any](maxBytes int64, size func(V) int64) *cache[K, V] {
	return &cache[K, V]{max: maxBytes, size: size, byKey: map[K]*list.Element{}}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[k]
	if e == nil {
		var none V
		return none, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[K, V]).value, true
}

// put keeps a value unless it alone is larger than a quarter of the cache.
func (c *cache[K, V]) put(k K, v V) {
	n := c.size(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[k] != nil || n > c.max/4 {
		return
	}
	c.byKey[k] = c.order.PushFront(&cached[K, V]{k, v})
	c.bytes += n
	for c.bytes > c.max {
		old := c.order.Remove(c.order.Back()).(*cached[K, V])
		delete(c.byKey, old.key)
		c.bytes -= c.size(old.value)
	}
}

// used is the number of bytes in the cache.
func (c *cache[K, V]) used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}
