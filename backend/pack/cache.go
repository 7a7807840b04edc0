package pack

import (
	"container/list"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// PageCache keeps decoded pages of any number of packs within a budget of
// bytes, the ones used last. It also has the decoder that those packs share: one
// of their own each would take more memory than their pages.
type PageCache struct {
	max     int64
	decoder func() (*zstd.Decoder, error)

	mu      sync.Mutex
	size    int64
	readers uint64
	byKey   map[pageKey]*list.Element
	order   list.List // of *cachedPage, used last in front
}

// pageKey is a page of a reader. Readers are numbered rather than pointed to,
// so that the cache keeps no reader alive.
type pageKey struct {
	reader uint64
	page   int
}

type cachedPage struct {
	key  pageKey
	page *page
}

// NewPageCache returns a cache of at most maxBytes of decoded pages.
func NewPageCache(maxBytes int64) *PageCache {
	return &PageCache{max: maxBytes, decoder: sync.OnceValues(newDecoder), byKey: map[pageKey]*list.Element{}}
}

// Bytes is about how much memory the pages in the cache take.
func (c *PageCache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// register numbers a reader.
func (c *PageCache) register() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers++
	return c.readers
}

func (c *PageCache) get(k pageKey) *page {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedPage).page
}

// put keeps a page, unless it alone is larger than the cache.
func (c *PageCache) put(k pageKey, p *page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[k] != nil || p.size > c.max {
		return
	}
	c.byKey[k] = c.order.PushFront(&cachedPage{key: k, page: p})
	c.size += p.size
	for c.size > c.max {
		c.drop(c.order.Back())
	}
}

// drop removes an entry; the caller holds mu.
func (c *PageCache) drop(e *list.Element) {
	old := c.order.Remove(e).(*cachedPage)
	delete(c.byKey, old.key)
	c.size -= old.page.size
}

// forget removes the pages of a reader that is closed.
func (c *PageCache) forget(reader uint64, pages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range pages {
		if e := c.byKey[pageKey{reader, i}]; e != nil {
			c.drop(e)
		}
	}
}
