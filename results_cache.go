package main

import (
	"fmt"

	"github.com/palliumhq/pallium/backend/cache"
	cachememory "github.com/palliumhq/pallium/backend/cache/memory"
	cacheredis "github.com/palliumhq/pallium/backend/cache/redis"
	"github.com/palliumhq/pallium/backend/cache/sealed"
	"github.com/palliumhq/pallium/backend/cache/tiered"
)

// maxResultsQueue is the maximum size in bytes of the results that wait to be written to Redis; it
// is less if the cache in memory is smaller.
const maxResultsQueue = 64 << 20

// resultsCache returns the cache of query results: in memory, and also in Redis if
// cluster.cache_redis and a cluster secret are set; the values in Redis are sealed with the secret.
// Without cluster.cache_redis, results are not stored in Redis: the ring's Redis does not evict
// values, and must not become full.
func (p *process) resultsCache() (cache.Cache, error) {
	near := cachememory.New(p.cfg.Frontend.CacheBytes, p.registry)
	if !p.cfg.Cluster.CacheRedis.Set() || p.security == nil {
		return near, nil
	}
	keys := p.security.DerivedKeys("results cache")
	if len(keys) == 0 {
		p.opts.Logger.Warn("query results are cached in memory only: a cache in cluster.cache_redis needs PALLIUM_CLUSTER_SECRET")
		return near, nil
	}
	seal, err := sealed.New(keys)
	if err != nil {
		return nil, fmt.Errorf("open the results cache in Redis: %w", err)
	}
	far := cacheredis.New(p.cacheRedis, cacheredis.Options{
		Seal: seal, QueueBytes: int(min(maxResultsQueue, p.cfg.Frontend.CacheBytes)), Logger: p.opts.Logger, Registerer: p.registry,
	})
	p.onClose("results cache in Redis", far.Close)
	return tiered.New(near, far), nil
}
