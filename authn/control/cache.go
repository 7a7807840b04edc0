package control

import (
	"container/list"
	"slices"
	"sync"
	"time"
)

// lookups caches answers, found and not found apart, so that a flood of unknown
// names does not push out the known ones.
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

// generation is to be taken before the store is read and handed to put.
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

// cache keeps the entries used last, each for entryLife at most.
type cache[V any] struct {
	size int
	now  func() time.Time

	mu    sync.Mutex
	gen   uint64 // counts drops
	items map[string]*list.Element
	order *list.List // of entry[V], the last used in front
}

type entry[V any] struct {
	key   string
	value V
	until time.Time
}

func newCache[V any](size int, now func() time.Time) *cache[V] {
	return &cache[V]{size: size, now: now, items: map[string]*list.Element{}, order: list.New()}
}

func (c *cache[V]) get(key string) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.items[key]
	if el == nil {
		return v, false
	}
	e := el.Value.(entry[V])
	if !c.now().Before(e.until) {
		c.removeElement(el)
		return v, false
	}
	c.order.MoveToFront(el)
	return e.value, true
}

func (c *cache[V]) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

// put stores a value that was read since generation gen, unless something was
// dropped meanwhile: the value may then be from before the change.
func (c *cache[V]) put(key string, gen uint64, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen {
		return
	}
	if el := c.items[key]; el != nil {
		c.removeElement(el)
	}
	c.items[key] = c.order.PushFront(entry[V]{key: key, value: v, until: c.now().Add(entryLife)})
	if len(c.items) > c.size {
		c.removeElement(c.order.Back())
	}
}

func (c *cache[V]) drop(keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, k := range keys {
		if el := c.items[k]; el != nil {
			c.removeElement(el)
		}
	}
}

func (c *cache[V]) dropIf(gone func(V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	var out []*list.Element
	for _, el := range c.items {
		if gone(el.Value.(entry[V]).value) {
			out = append(out, el)
		}
	}
	for el := range slices.Values(out) {
		c.removeElement(el)
	}
}

func (c *cache[V]) clear() { c.dropIf(func(V) bool { return true }) }

func (c *cache[V]) removeElement(el *list.Element) {
	delete(c.items, el.Value.(entry[V]).key)
	c.order.Remove(el)
}
