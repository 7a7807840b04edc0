// Package lru has a cache of the most recently used values, bounded by bytes or by
// number of entries. It adds weights and a lock to the list and map of
// hashicorp/golang-lru. Caches with asynchronous eviction temporarily exceed their
// budget, and caches that evict by frequency may drop a value that was just put;
// Pallium counts the budgets of its caches as used memory, so both are unsuitable.
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

// New returns a cache of values with a total weight of at most max. weigh returns
// the weight of a value, always the same for the same value. nil: each value weighs
// 1, and max is the number of values.
func New[K comparable, V any](max int64, weigh func(V) int64) *Cache[K, V] {
	if weigh == nil {
		weigh = func(V) int64 { return 1 }
	}
	values, err := simplelru.NewLRU[K, V](math.MaxInt, nil)
	if err != nil {
		panic(err) // only if the size is not positive
	}
	return &Cache[K, V]{max: max, weigh: weigh, values: values}
}

// Get returns the value of a key and marks it as most recently used.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values.Get(k)
}

// Put adds or replaces the value of a key. A value heavier than the whole cache is
// not stored.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(k, v)
}

// GetOrPut returns the value of the key, or puts and returns v if there is none.
func (c *Cache[K, V]) GetOrPut(k K, v V) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.values.Get(k); ok {
		return have
	}
	c.put(k, v)
	return v
}

// put is Put for callers that hold mu.
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

// Remove removes keys.
func (c *Cache[K, V]) Remove(keys ...K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		c.remove(k)
	}
}

// RemoveIf removes the values for which `gone` returns true.
func (c *Cache[K, V]) RemoveIf(gone func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.values.Keys() {
		if v, ok := c.values.Peek(k); ok && gone(v) {
			c.remove(k)
		}
	}
}

// remove removes a key. The caller holds mu.
func (c *Cache[K, V]) remove(k K) {
	if v, ok := c.values.Peek(k); ok {
		c.values.Remove(k)
		c.used -= c.weigh(v)
	}
}

// Used returns the total weight of the values.
func (c *Cache[K, V]) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// Len returns the number of values.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values.Len()
}
