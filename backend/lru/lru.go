// Package lru keeps values under keys, those that were used last, within a budget
// of bytes or of entries. The order is kept by hashicorp/golang-lru, whose list and
// map carry no weights and no lock: both are added here. Caches with asynchronous
// eviction would hold more than their budget for a while, and those that choose by
// frequency may not keep what was just put; the budgets of Pallium's caches are
// counted as taken memory.
package lru

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Cache is a bounded cache. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	max    int64
	weigh  func(V) int64
	mu     sync.Mutex
	used   int64
	values *simplelru.LRU[K, V]
}

// New returns a cache of values that weigh at most max together; weigh tells what
// one does, always the same for the same value. nil: each weighs 1, and max is the
// number of values.
func New[K comparable, V any](max int64, weigh func(V) int64) *Cache[K, V] {
	if weigh == nil {
		weigh = func(V) int64 { return 1 }
	}
	values, err := simplelru.NewLRU[K, V](math.MaxInt, nil)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Cache[K, V]{max: max, weigh: weigh, values: values}
}

// Get returns the value of a key and notes its use.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values.Get(k)
}

// Put keeps a value, instead of the one that the key may have. One that is heavier
// than the whole cache is not kept.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(k, v)
}

// GetOrPut returns the value of the key, after putting v there if it has none.
func (c *Cache[K, V]) GetOrPut(k K, v V) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.values.Get(k); ok {
		return have
	}
	c.put(k, v)
	return v
}

// put is Put; the caller holds mu.
func (c *Cache[K, V]) put(k K, v V) {
	c.remove(k)
	n := c.weigh(v)
	if n > c.max {
		return
	}
	c.values.Add(k, v)
	for c.used += n; c.used > c.max; {
		_, old, _ := c.values.RemoveOldest()
		c.used -= c.weigh(old)
	}
}

// Remove forgets keys.
func (c *Cache[K, V]) Remove(keys ...K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		c.remove(k)
	}
}

// RemoveIf forgets the values that gone reports.
func (c *Cache[K, V]) RemoveIf(gone func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.values.Keys() {
		if v, ok := c.values.Peek(k); ok && gone(v) {
			c.remove(k)
		}
	}
}

// remove forgets a key; the caller holds mu.
func (c *Cache[K, V]) remove(k K) {
	if v, ok := c.values.Peek(k); ok {
		c.values.Remove(k)
		c.used -= c.weigh(v)
	}
}

// Used is what the values weigh together.
func (c *Cache[K, V]) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// Len is the number of values.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values.Len()
}
