// Package cache is the port of the cache of query results: values by tenant and key,
// bounded in bytes. Everything in a cache can be lost at any time.
//
// Contract of every adapter, checked by cachetest:
//   - Get returns the values that it has, by key. A value is exactly one that was put
//     under the same tenant and key; a key that is not in the result is a miss. An
//     adapter that cannot be sure of a value (a hash collision, damage, a forgery)
//     treats it as a miss. The caller must not modify a value.
//   - Put stores a value, or does not: a value that is too large, or a store that
//     fails, is not an error of the query. The adapter keeps a reference to the value.
//   - A tenant cannot take the space of others: when the cache is full, the tenant with
//     the most bytes loses its least recently used values. This does not hold for a
//     store that evicts values itself, such as Redis.
//   - Neither call takes longer than the context allows, nor fails a query. With a
//     context that has ended, every key is a miss.
//   - All methods are safe for concurrent use.
package cache

import (
	"context"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Cache stores values by tenant and key.
type Cache interface {
	// Get returns the values of the keys that the cache has.
	Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte
	// Put stores a value.
	Put(ctx context.Context, id tenant.ID, key string, value []byte)
}
