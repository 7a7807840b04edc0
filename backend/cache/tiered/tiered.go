// Package tiered combines two caches: a near one, in the memory of the process, and a far one,
// which several processes share. Only values that the near cache does not have are looked up in the
// far one.
package tiered

import (
	"context"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
)

// Cache implements cache.Cache.
type Cache struct{ near, far cache.Cache }

var _ cache.Cache = (*Cache)(nil)

// New returns a cache that stores values in both caches.
func New(near, far cache.Cache) *Cache { return &Cache{near: near, far: far} }

// Get implements cache.Cache. Values that only the far cache has are put into the near one.
func (c *Cache) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	out := c.near.Get(ctx, id, keys)
	var missing []string
	for _, k := range keys {
		if _, ok := out[k]; !ok {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return out
	}
	for k, v := range c.far.Get(ctx, id, missing) {
		c.near.Put(ctx, id, k, v)
		out[k] = v
	}
	return out
}

// Put implements cache.Cache.
func (c *Cache) Put(ctx context.Context, id tenant.ID, key string, value []byte) {
	c.near.Put(ctx, id, key, value)
	c.far.Put(ctx, id, key, value)
}
