// Package memory provides a row store in memory, for tests and benchmarks: the Pebble
// adapter on a file system in memory.
package memory

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows/pebble"
)

// Open opens an empty store.
func Open() (*pebble.Store, error) {
	return pebble.Open("rows", pebble.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
}
