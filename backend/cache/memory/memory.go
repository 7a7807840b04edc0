// Package memory is a cache in the memory of the process.
package memory

import (
	"container/heap"
	"context"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
)

// entryBytes and tenantBytes are the approximate memory of an entry in addition to its key
// and value, and of a tenant in addition to its entries.
const (
	entryBytes  = 200
	tenantBytes = 400
)

// maxPart limits the size of a value: a value larger than the size of the cache divided by maxPart
// is not stored.
const maxPart = 8

// Cache implements cache.Cache.
type Cache struct {
	most    int64
	evicted prometheus.Counter

	mu      sync.Mutex
	used    int64
	tenants map[tenant.ID]*values
	largest bySize
}

var _ cache.Cache = (*Cache)(nil)

// values are the values of one tenant.
type values struct {
	id    tenant.ID
	used  int64
	place int // in the heap
	list  *simplelru.LRU[string, []byte]
}

// New returns a cache of at most the given number of bytes.
func New(bytes int64, reg prometheus.Registerer) *Cache {
	auto := promauto.With(reg)
	c := &Cache{most: bytes, tenants: map[tenant.ID]*values{}, evicted: auto.NewCounter(prometheus.CounterOpts{
		Name: "pallium_results_cache_evicted_total", Help: "Values that were evicted from the results cache in memory because it was full.",
	})}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pallium_results_cache_bytes", Help: "Bytes in the results cache in memory.",
	}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.used)
	})
	return c
}

// Get implements cache.Cache.
func (c *Cache) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	out := map[string][]byte{}
	if ctx.Err() != nil {
		return out
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.tenants[id]
	if of == nil {
		return out
	}
	for _, k := range keys {
		if v, ok := of.list.Get(k); ok {
			out[k] = v
		}
	}
	return out
}

// Put implements cache.Cache.
func (c *Cache) Put(_ context.Context, id tenant.ID, key string, value []byte) {
	size := weight(key, value)
	if size > c.most/maxPart {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.tenants[id]
	if of == nil {
		of = c.add(id)
	}
	if old, ok := of.list.Peek(key); ok {
		size -= weight(key, old)
	}
	of.list.Add(key, value)
	c.grow(of, size)
	for c.used > c.most {
		c.evict()
	}
}

func weight(key string, value []byte) int64 { return int64(len(key)+cap(value)) + entryBytes }

// add adds a tenant without values.
func (c *Cache) add(id tenant.ID) *values {
	list, err := simplelru.NewLRU[string, []byte](math.MaxInt, nil)
	if err != nil {
		panic(err) // only if the size is not positive
	}
	of := &values{id: id, list: list}
	c.tenants[id] = of
	heap.Push(&c.largest, of)
	c.grow(of, tenantBytes)
	return of
}

func (c *Cache) grow(of *values, n int64) {
	of.used += n
	c.used += n
	heap.Fix(&c.largest, of.place)
}

// evict removes the least recently used value of the tenant with the most bytes.
func (c *Cache) evict() {
	of := c.largest[0]
	if key, value, ok := of.list.RemoveOldest(); ok {
		c.grow(of, -weight(key, value))
		c.evicted.Inc()
	}
	if of.list.Len() == 0 {
		c.grow(of, -tenantBytes)
		heap.Remove(&c.largest, of.place)
		delete(c.tenants, of.id)
	}
}

// bySize is a heap of tenants, the one with the most bytes first.
type bySize []*values

// Len implements heap.Interface.
func (h bySize) Len() int { return len(h) }

// Less implements heap.Interface.
func (h bySize) Less(i, j int) bool { return h[i].used > h[j].used }

// Swap implements heap.Interface.
func (h bySize) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *bySize) Push(x any) {
	of := x.(*values)
	of.place = len(*h)
	*h = append(*h, of)
}

// Pop implements heap.Interface.
func (h *bySize) Pop() any {
	last := len(*h) - 1
	of := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return of
}
