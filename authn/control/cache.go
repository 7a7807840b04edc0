package control

import (
	"sync"
	"time"

	"github.com/palliumhq/pallium/backend/lru"
)

// lookups caches the results of lookups. Objects that exist and names that do not are
// cached separately, so that a flood of unknown names does not evict existing objects.
type lookups[V any] struct {
	found, missing *cache[V]
}

func newLookups[V any](size int, now func() time.Time) lookups[V] {
	return lookups[V]{found: newCache[V](size, now), missing: newCache[V](size, now)}
}

func (l lookups[V]) get(key string) (v V, found, ok bool) {
	if v, ok := l.found.get(key); ok {
		return v, true, true
	}
	v, ok = l.missing.get(key)
	return v, false, ok
}

// generation returns the current generation. Call it before reading the store and pass
// its result to put.
func (l lookups[V]) generation() [2]uint64 {
	return [2]uint64{l.found.generation(), l.missing.generation()}
}

func (l lookups[V]) put(key string, g [2]uint64, v V, found bool) {
	if found {
		l.found.put(key, g[0], v)
		return
	}
	l.missing.put(key, g[1], v)
}

func (l lookups[V]) drop(keys ...string) {
	l.found.drop(keys...)
	l.missing.drop(keys...)
}

func (l lookups[V]) clear() {
	l.found.clear()
	l.missing.clear()
}

// cache is an LRU cache whose entries expire after entryLife.
type cache[V any] struct {
	now   func() time.Time
	items *lru.Cache[string, entry[V]]

	mu  sync.Mutex // makes comparing gen and changing items atomic
	gen uint64     // counts drops
}

type entry[V any] struct {
	value V
	until time.Time
}

func newCache[V any](size int, now func() time.Time) *cache[V] {
	return &cache[V]{now: now, items: lru.New[string, entry[V]](int64(size), nil)}
}

func (c *cache[V]) get(key string) (v V, ok bool) {
	e, ok := c.items.Get(key)
	if !ok || !c.now().Before(e.until) { // an expired entry is replaced by put or evicted as unused
		return v, false
	}
	return e.value, true
}

func (c *cache[V]) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// put stores a value that was read in generation gen. It does nothing if an entry was dropped since
// then, because the value may be older than the change for which the entry was dropped.
func (c *cache[V]) put(key string, gen uint64, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen == c.gen {
		c.items.Put(key, entry[V]{value: v, until: c.now().Add(entryLife)})
	}
}

func (c *cache[V]) drop(keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.items.Remove(keys...)
}

func (c *cache[V]) dropIf(gone func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.items.RemoveIf(func(e entry[V]) bool { return gone(e.value) })
}

func (c *cache[V]) clear() { c.dropIf(func(V) bool { return true }) }
