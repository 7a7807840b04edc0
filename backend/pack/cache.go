package pack

import (
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/palliumhq/pallium/backend/lru"
)

// PageCache is an LRU cache of the decoded pages of any number of packs,
// bounded in bytes. It also has the zstd decoder that these packs share: a
// decoder per pack would take more memory than the pages.
type PageCache struct {
	decoder func() (*zstd.Decoder, error)
	readers atomic.Uint64
	pages   *lru.Cache[pageKey, *page]
}

// pageKey identifies a page of a reader. It has a number instead of a pointer
// to the reader, so that the cache does not keep readers reachable.
type pageKey struct {
	reader uint64
	page   int
}

// NewPageCache returns a cache of at most maxBytes of decoded pages.
func NewPageCache(maxBytes int64) *PageCache {
	return &PageCache{decoder: sync.OnceValues(newDecoder), pages: lru.New[pageKey](maxBytes, func(p *page) int64 { return p.size })}
}

// Bytes returns the approximate memory use of the cached pages.
func (c *PageCache) Bytes() int64 { return c.pages.Used() }

// register returns a new reader number.
func (c *PageCache) register() uint64 { return c.readers.Add(1) }

func (c *PageCache) get(k pageKey) *page {
	p, _ := c.pages.Get(k)
	return p
}

// put caches a page, unless it is larger than the cache or already cached by a
// concurrent read.
func (c *PageCache) put(k pageKey, p *page) { c.pages.GetOrPut(k, p) }

// forget removes the pages of a closed reader.
func (c *PageCache) forget(reader uint64, pages int) {
	for i := range pages {
		c.pages.Remove(pageKey{reader, i})
	}
}
