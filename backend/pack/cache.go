package pack

import (
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/palliumhq/pallium/backend/lru"
)

// PageCache keeps decoded pages of any number of packs within a budget of
// bytes, the ones used last. It also has the decoder that those packs share: one
// of their own each would take more memory than their pages.
type PageCache struct {
	decoder func() (*zstd.Decoder, error)
	readers atomic.Uint64
	pages   *lru.Cache[pageKey, *page]
}

// pageKey is a page of a reader. Readers are numbered rather than pointed to,
// so that the cache keeps no reader alive.
type pageKey struct {
	reader uint64
	page   int
}

// NewPageCache returns a cache of at most maxBytes of decoded pages.
func NewPageCache(maxBytes int64) *PageCache {
	return &PageCache{decoder: sync.OnceValues(newDecoder), pages: lru.New[pageKey](maxBytes, func(p *page) int64 { return p.size })}
}

// Bytes is about how much memory the pages in the cache take.
func (c *PageCache) Bytes() int64 { return c.pages.Used() }

// register numbers a reader.
func (c *PageCache) register() uint64 { return c.readers.Add(1) }

func (c *PageCache) get(k pageKey) *page {
	p, _ := c.pages.Get(k)
	return p
}

// put keeps a page, unless it alone is larger than the cache or another read was
// first.
func (c *PageCache) put(k pageKey, p *page) { c.pages.GetOrPut(k, p) }

// forget removes the pages of a reader that is closed.
func (c *PageCache) forget(reader uint64, pages int) {
	for i := range pages {
		c.pages.Remove(pageKey{reader, i})
	}
}
