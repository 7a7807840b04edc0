package store

import "github.com/palliumhq/pallium/backend/lru"

// cache is an LRU cache of immutable values, limited by their total size in bytes.
type cache[K comparable, V any] struct {
	largest int64
	size    func(V) int64
	values  *lru.Cache[K, V]
}

func newCache[K comparable, V any](maxBytes int64, size func(V) int64) *cache[K, V] {
	return &cache[K, V]{largest: maxBytes / 4, size: size, values: lru.New[K](maxBytes, size)}
}

func (c *cache[K, V]) get(k K) (V, bool) { return c.values.Get(k) }

// put stores a value, unless the value is larger than a quarter of the cache or the
// cache has one for the key.
func (c *cache[K, V]) put(k K, v V) {
	if c.size(v) <= c.largest {
		c.values.GetOrPut(k, v)
	}
}

// used returns the total size of the cached values in bytes.
func (c *cache[K, V]) used() int64 { return c.values.Used() }
